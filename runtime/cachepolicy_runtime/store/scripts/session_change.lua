-- Write new content into a session if the stored version is the expected one, and count this as a use of it.
--
-- KEYS[1]   hash of the session (fields as in session_load.lua)
-- KEYS[2]   epoch of the store
-- ARGV      data, expected version (≥ 1), the version after it, idle time (ms)
-- answer    the epoch; nil where nothing was written, because another version or no epoch is stored
--
-- All that a request needs which changes its session and neither its id nor its owner: session_save.lua does the
-- rest at twice the cost. A session that is past its absolute time is found out by the next load.

local epoch = redis.call('GET', KEYS[2])
if not epoch or redis.call('HGET', KEYS[1], 'v') ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'v', ARGV[3], 'd', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return epoch
