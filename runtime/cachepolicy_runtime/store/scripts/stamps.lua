-- Read the purge stamps, after renewing some.
--
-- KEYS[1]   hash of stamps: field -> opaque value; cachepolicy/stamps.py tells what a field is
-- ARGV      nonce;
--           moment of the newest stamp that the caller has seen of this store, microseconds, 0: none;
--           revision of the document that asks for it, empty: nobody's, renew in any case;
--           fields that there may be; then the fields to renew
-- answer    the whole hash, field and value in turn
--
-- A value is a moment and the nonce. Moments only rise, also where the server's clock does not, so no value
-- comes twice. "all" is renewed where it is missing and where the store knows less than the caller has seen: all
-- misses, and nothing purged revives. One document renews once, whichever process comes first.

local key, nonce, seen = KEYS[1], ARGV[1], tonumber(ARGV[2])
local revision, most = ARGV[3], tonumber(ARGV[4])

local stamps, count, newest = {}, 0, 0
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  stamps[flat[i]] = flat[i + 1]
  count = count + 1
  local seconds, micros = string.match(flat[i + 1], '^(%d+)%.(%d+)%-')
  if seconds then
    newest = math.max(newest, seconds * 1e6 + micros)
  end
end

local fields = {}
for i = 5, #ARGV do
  fields[#fields + 1] = ARGV[i]
end
if revision ~= '' and revision == stamps.document then
  fields = {}
end
if not stamps.all or newest < seen then
  fields = { 'all' }
end
if #fields == 0 then
  return flat
end

local time = redis.call('TIME')
local moment = math.max(time[1] * 1e6 + time[2], newest + 1, seen + 1)
local value = string.format('%d.%d-%s', math.floor(moment / 1e6), moment % 1e6, nonce)

local function drop(field)
  redis.call('HDEL', key, field)
  stamps[field] = nil
  count = count - 1
end

local function set(field, to)
  count = count + redis.call('HSET', key, field, to)
  stamps[field] = to
end

local function within(other, field)
  for part in string.gmatch(field, '[^&]+') do
    if not string.find('&' .. other .. '&', '&' .. part .. '&', 1, true) then
      return false
    end
  end
  return true
end

for _, field in ipairs(fields) do
  if field == 'all' then
    redis.call('DEL', key)
    stamps, count = { document = stamps.document }, 0
    if stamps.document then
      set('document', stamps.document)
    end
  end
  for other in pairs(stamps) do
    if within(other, field) then
      drop(other)
    end
  end
  set(field, value)
end
if revision ~= '' then
  set('document', revision)
end

local function shape(field)
  return (string.gsub(field, '=[^&]*', '=*'))
end

while count > most do
  local sizes, largest = {}, nil
  for field in pairs(stamps) do
    local its = shape(field)
    if its ~= field then
      sizes[its] = (sizes[its] or 0) + 1
      if not largest or sizes[its] > sizes[largest] then
        largest = its
      end
    end
  end
  if not largest then
    break
  end
  for field in pairs(stamps) do
    if shape(field) == largest then
      drop(field)
    end
  end
  set(largest, value)
end
return redis.call('HGETALL', key)
