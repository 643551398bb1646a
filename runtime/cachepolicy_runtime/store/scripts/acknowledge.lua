-- Refresh the acknowledgement of one process and count the live ones.
--
-- KEYS[1]   zset of acknowledgements: member -> time of the last one (ms, server's clock)
-- KEYS[2]   record of this member
-- KEYS[3]   epoch of the store
-- ARGV      member, record, lifetime (ms), nonce for an epoch that has to be made
-- answer    {live processes, epoch}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('GET', KEYS[3])
if not epoch then
  epoch = time[1] .. '.' .. time[2] .. '-' .. ARGV[4]
  redis.call('SET', KEYS[3], epoch)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - tonumber(ARGV[3])))
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return { redis.call('ZCARD', KEYS[1]), epoch }
