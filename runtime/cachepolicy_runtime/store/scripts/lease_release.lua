-- Give up a lease that is still ours, and wake those who wait for it.
--
-- KEYS[1]   lease: string, the holder's nonce
-- ARGV      nonce; value that says "each by itself"; ms for which it stands there, 0: the lease is free at once;
--           channel, to which the lease's name goes
-- answer    1 when it was ours, else 0

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
redis.call('PUBLISH', ARGV[4], KEYS[1])
return 1
