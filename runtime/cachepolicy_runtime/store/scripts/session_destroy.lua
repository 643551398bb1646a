-- Remove sessions.
--
-- KEYS      hashes of sessions (fields as in session_load.lua)
-- answer    how many there were

local found = 0
for _, key in ipairs(KEYS) do
  local owner = redis.call('HGET', key, 'i')
  if owner then redis.call('ZREM', owner, key) end
  found = found + redis.call('DEL', key)
end
return found
