-- The sessions of one owner that are alive, the one begun last first.
--
-- KEYS[1]   the owner's list (zset: session key -> last moment at which it can be there, ms)
-- ARGV      idle time (ms), absolute time (ms), how many at most
-- answer    for each: key, created, last used (ms, server's clock), label (empty: none)
--
-- A use sets the time to live to the idle time, and so that tells when it was; after a change of the idle time
-- it is right from the next use on. The sessions' keys come from the list and are not in KEYS: state is never
-- a Redis Cluster.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local idle, absolute = tonumber(ARGV[1]), tonumber(ARGV[2])

local answer = {}
for _, key in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, ARGV[3] - 1)) do
  local session = redis.call('HMGET', key, 'c', 'i', 'l')
  if not session[1] then
    redis.call('ZREM', KEYS[1], key)
  elseif session[2] == KEYS[1] and now - session[1] < absolute then
    local created = tonumber(session[1])
    local used = now + redis.call('PTTL', key) - idle
    answer[#answer + 1] = key
    answer[#answer + 1] = created
    answer[#answer + 1] = math.max(created, math.min(now, used))
    answer[#answer + 1] = session[3] or ''
  end
end
return answer
