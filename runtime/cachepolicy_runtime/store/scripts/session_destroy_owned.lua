-- Remove sessions of one owner.
--
-- KEYS[1]   the owner's list (zset: session key -> last moment at which it can be there, ms)
-- ARGV      key of a session that stays (empty: none), how many to look at (≤ 1000)
-- answer    {how many there were, 1 where all of the list was looked at}
--
-- The sessions' keys come from the list and are not in KEYS: state is never a Redis Cluster.

local found, gone = 0, {}
local keys = redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)
for _, key in ipairs(keys) do
  if key ~= ARGV[1] then
    found = found + redis.call('DEL', key)
    gone[#gone + 1] = key
  end
end
if #gone > 0 then redis.call('ZREM', KEYS[1], unpack(gone)) end
return { found, #keys < tonumber(ARGV[2]) and 1 or 0 }
