-- Read a session and count this as a use of it.
--
-- KEYS[1]   hash of the session: v version, c created (ms, server's clock), d data, i key of the owner's list
-- KEYS[2]   epoch of the store
-- ARGV      idle time (ms), absolute time (ms), nonce for an epoch that has to be made
-- answer    {epoch} where there is no session, else {epoch, data, version, age (ms)}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Looked at first: a SET is refused while memory is full, and reading must still work then.
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = time[1] .. '.' .. time[2] .. '-' .. ARGV[3]
  redis.call('SET', KEYS[2], epoch)
end

local session = redis.call('HMGET', KEYS[1], 'v', 'c', 'd', 'i')
if not session[1] then return { epoch } end

local age = math.max(0, now - tonumber(session[2]))
local left = tonumber(ARGV[2]) - age
if left <= 0 then
  redis.call('DEL', KEYS[1])
  if session[4] then redis.call('ZREM', session[4], KEYS[1]) end
  return { epoch }
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(tonumber(ARGV[1]), left)))
return { epoch, session[3], tonumber(session[1]), age }
