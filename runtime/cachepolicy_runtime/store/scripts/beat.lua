-- Refresh one member of a list of live ones and count them.
--
-- KEYS[1]   zset: member -> time of its last sign of life (ms, server's clock)
-- ARGV      member, lifetime (ms)
-- answer    how many live

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - tonumber(ARGV[2])))
return redis.call('ZCARD', KEYS[1])
