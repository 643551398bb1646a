-- Remove sessions.
--
-- KEYS      hashes of sessions (fields as in session_load.lua)
-- ARGV[1]   empty, or the key of an owner's list: only sessions of that owner
-- answer    how many it were

local found = 0
for _, key in ipairs(KEYS) do
  local owner = redis.call('HGET', key, 'i')
  if ARGV[1] == '' or owner == ARGV[1] then
    if owner then redis.call('ZREM', owner, key) end
    found = found + redis.call('DEL', key)
  end
end
return found
