-- Write a session if the stored version is the expected one.
--
-- KEYS[1]   hash of the session (fields as in session_load.lua)
-- KEYS[2]   epoch of the store
-- KEYS[3]   key of the owner's list (zset: session key -> last moment at which it can be there, ms),
--           where ARGV[7] is 1
-- KEYS[n]   last: hash of the session that this one takes over, where ARGV[8] is 1
-- ARGV      data, expected version (0: there must be none), idle time (ms), absolute time (ms),
--           age of a new session (ms), nonce for an epoch that has to be made, has an owner, takes over,
--           label (empty: the one that it has)
-- answer    {epoch, saved 0 or 1, version now stored (0: none)}, and where another version is stored
--           its {data, age (ms), owner's list, label}, the last two empty where there is none

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local idle, absolute = tonumber(ARGV[3]), tonumber(ARGV[4])
local source = ARGV[8] == '1' and KEYS[#KEYS] or KEYS[1]

local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = time[1] .. '.' .. time[2] .. '-' .. ARGV[6]
  redis.call('SET', KEYS[2], epoch)
end

local stored = redis.call('HMGET', source, 'v', 'c', 'i', 'l', 'a')
local version = tonumber(stored[1] or 0)
local created = tonumber(stored[2] or now - tonumber(ARGV[5]))
local age = math.max(0, now - created)
if age >= absolute then return { epoch, 0, 0 } end
if version ~= tonumber(ARGV[2]) then
  if version == 0 then return { epoch, 0, 0 } end
  return { epoch, 0, version, redis.call('HGET', source, 'd'), age, stored[3] or '', stored[4] or '' }
end

-- A write that names no owner or label keeps the one there is.
local owner = ARGV[7] == '1' and KEYS[3] or stored[3]
local label = ARGV[9] ~= '' and ARGV[9] or stored[4]
local last = string.format('%.0f', created + absolute + idle)
local fields = { 'v', string.format('%.0f', version + 1), 'c', string.format('%.0f', created), 'd', ARGV[1] }
if owner then
  fields[#fields + 1], fields[#fields + 2], fields[#fields + 3], fields[#fields + 4] = 'i', owner, 'a', last
end
if label then fields[#fields + 1], fields[#fields + 2] = 'l', label end

redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local moved = source ~= KEYS[1]
if owner and (moved or owner ~= stored[3] or last ~= stored[5]) then
  redis.call('ZADD', owner, last, KEYS[1])
  redis.call('ZREMRANGEBYSCORE', owner, '-inf', string.format('%.0f', now))
  if redis.call('PTTL', owner) < last - now then
    redis.call('PEXPIRE', owner, string.format('%.0f', last - now))
  end
end
if moved then redis.call('DEL', source) end
if stored[3] and (moved or stored[3] ~= owner) then redis.call('ZREM', stored[3], source) end
return { epoch, 1, version + 1 }
