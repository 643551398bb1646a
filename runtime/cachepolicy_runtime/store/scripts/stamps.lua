-- Read the purge stamps, after renewing some.
--
-- KEYS[1]   hash of stamps: field -> opaque value
-- ARGV      nonce, then the fields to renew
-- answer    the whole hash, field and value in turn
--
-- The field "all" is made anew where it is missing: a lost hash means that all misses, never that something
-- purged revives. A value is the server's time and the nonce, and so never comes twice.

local time = redis.call('TIME')
local value = time[1] .. '.' .. time[2] .. '-' .. ARGV[1]
for i = 2, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], value)
end
if redis.call('HEXISTS', KEYS[1], 'all') == 0 then
  redis.call('HSET', KEYS[1], 'all', value)
end
return redis.call('HGETALL', KEYS[1])
