-- Remove every session of one owner.
--
-- KEYS[1]   the owner's list (zset: session key -> end, ms)
-- answer    how many there were
--
-- The sessions' keys come from the list and are not in KEYS: state is never a Redis Cluster.

local found = 0
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  found = found + redis.call('DEL', key)
end
redis.call('DEL', KEYS[1])
return found
