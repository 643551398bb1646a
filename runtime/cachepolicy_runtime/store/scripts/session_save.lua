-- Write a session if the stored version is the expected one.
--
-- KEYS[1]   hash of the session (fields as in session_load.lua)
-- KEYS[2]   epoch of the store
-- KEYS[3]   key of the owner's list (zset: session key -> end, ms), where ARGV[7] is 1
-- KEYS[n]   last: hash of the session that this one takes over, where ARGV[8] is 1
-- ARGV      data, expected version (0: there must be none), idle time (ms), absolute time (ms),
--           age of a new session (ms), nonce for an epoch that has to be made, has an owner, takes over
-- answer    {epoch, saved 0 or 1, version now stored (0: none)}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local idle, absolute = tonumber(ARGV[3]), tonumber(ARGV[4])
local source = ARGV[8] == '1' and KEYS[#KEYS] or KEYS[1]

local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = time[1] .. '.' .. time[2] .. '-' .. ARGV[6]
  redis.call('SET', KEYS[2], epoch)
end

local stored = redis.call('HMGET', source, 'v', 'c', 'i')
local version = tonumber(stored[1] or 0)
if version ~= tonumber(ARGV[2]) then return { epoch, 0, version } end

-- A write that names no owner keeps the one there is.
local owner = ARGV[7] == '1' and KEYS[3] or stored[3]
local created = tonumber(stored[2] or now - tonumber(ARGV[5]))
local left = absolute - math.max(0, now - created)
if left <= 0 then return { epoch, 0, 0 } end

redis.call('HSET', KEYS[1], 'v', string.format('%.0f', version + 1), 'c', string.format('%.0f', created),
  'd', ARGV[1])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(idle, left)))
if owner then
  redis.call('HSET', KEYS[1], 'i', owner)
  redis.call('ZADD', owner, string.format('%.0f', created + absolute), KEYS[1])
  redis.call('ZREMRANGEBYSCORE', owner, '-inf', string.format('%.0f', now))
  redis.call('PEXPIRE', owner, ARGV[4])
end
if source ~= KEYS[1] then redis.call('DEL', source) end
if stored[3] and (source ~= KEYS[1] or stored[3] ~= owner) then redis.call('ZREM', stored[3], source) end
return { epoch, 1, version + 1 }
