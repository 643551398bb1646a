-- Keep a lease that is still ours.
--
-- KEYS[1]   lease: string, the holder's nonce
-- ARGV      nonce; time to live from now, ms
-- answer    1 when it was ours and lives on, else 0

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
