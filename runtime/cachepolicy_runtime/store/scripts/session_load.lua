-- Read a session and count this as a use of it: the long way, for what the plain commands of load() cannot do.
--
-- KEYS[1]   hash of the session: v version, c created (ms, server's clock), d data, i key of the owner's list,
--           a its score there, l label
-- KEYS[2]   epoch of the store
-- ARGV      idle time (ms), absolute time (ms), nonce for an epoch that has to be made
-- answer    {epoch} where there is no session, else {epoch, data, version, age (ms), owner's list, label},
--           the last two empty where there is none

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Looked at first: a SET is refused while memory is full, and reading must still work then.
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = time[1] .. '.' .. time[2] .. '-' .. ARGV[3]
  redis.call('SET', KEYS[2], epoch)
end

local session = redis.call('HMGET', KEYS[1], 'v', 'c', 'd', 'i', 'a', 'l')
if not session[1] then return { epoch } end

local created = tonumber(session[2])
local age = math.max(0, now - created)
local owner = session[4]
if age >= tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[1])
  if owner then redis.call('ZREM', owner, KEYS[1]) end
  return { epoch }
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])

-- Other times in the policy: the owner's list has to hold the session as long as it can be there. That is
-- refused while memory is full, and made up for by the next load.
local last = string.format('%.0f', created + ARGV[1] + ARGV[2])
if owner and session[5] ~= last then
  local added = redis.pcall('ZADD', owner, last, KEYS[1])
  if type(added) == 'number' then
    redis.pcall('HSET', KEYS[1], 'a', last)
    if redis.call('PTTL', owner) < last - now then
      redis.call('PEXPIRE', owner, string.format('%.0f', last - now))
    end
  end
end
return { epoch, session[3], tonumber(session[1]), age, owner or '', session[6] or '' }
