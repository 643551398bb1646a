-- Admit one request under several sliding windows: counted in all of them, or in none.
--
-- KEYS[i]             hash of one window: number of a sub-bucket -> units counted in it
-- ARGV[3i-2 .. 3i]    limit (units), window (ms), weight of the request (units)
-- answer              {admitted 0 or 1, then for each window: remaining (units), reset (ms), retry (ms)}
--                     reset: until everything is free again; retry: 0, or until this weight has room
--
-- A window is cut into 10 sub-buckets of window/10. Counted are the current one and the 10 before it, the oldest
-- in full although a part of it has already left the window: never above the limit in any true window, and
-- what was used comes back at most window/10 late. The clock is the server's, in microseconds.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local windows = {}
local admitted = 1

for i, key in ipairs(KEYS) do
  local w = { limit = tonumber(ARGV[3 * i - 2]), weight = tonumber(ARGV[3 * i]) }
  w.sub = tonumber(ARGV[3 * i - 1]) * 100
  w.current = math.floor(now / w.sub)
  w.by_age, w.used, w.old = {}, 0, {}
  local fields = redis.call('HGETALL', key)
  for j = 1, #fields, 2 do
    -- A bucket of the future is there after the server's clock was set back: counted as current.
    local age = math.max(0, w.current - tonumber(fields[j]))
    if age > 10 then
      w.old[#w.old + 1] = fields[j]
    else
      local units = tonumber(fields[j + 1])
      w.by_age[age] = (w.by_age[age] or 0) + units
      w.used = w.used + units
    end
  end
  w.room = w.used + w.weight <= w.limit
  if not w.room then admitted = 0 end
  windows[i] = w
end

-- Milliseconds until the sub-bucket of this age is no longer counted.
local function leaves(w, age)
  return math.ceil(((w.current - age + 11) * w.sub - now) / 1000)
end

local answer = { admitted }

for i, w in ipairs(windows) do
  if admitted == 1 then
    redis.call('HINCRBY', KEYS[i], string.format('%.0f', w.current), w.weight)
    if #w.old > 0 then redis.call('HDEL', KEYS[i], unpack(w.old)) end
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.ceil(w.sub * 11 / 1000)))
    w.by_age[0] = (w.by_age[0] or 0) + w.weight
    w.used = w.used + w.weight
  end
  local reset, retry = 0, 0
  for age = 10, 0, -1 do
    if w.by_age[age] then reset = leaves(w, age) end
  end
  if not w.room then
    local used = w.used
    for age = 10, 0, -1 do
      if w.by_age[age] then
        used = used - w.by_age[age]
        if used + w.weight <= w.limit then
          retry = leaves(w, age)
          break
        end
      end
    end
    -- A weight above the limit never has room; it is told the whole window.
    if retry == 0 then retry = leaves(w, 0) end
  end
  answer[#answer + 1] = math.max(0, w.limit - w.used)
  answer[#answer + 1] = reset
  answer[#answer + 1] = retry
end

return answer
