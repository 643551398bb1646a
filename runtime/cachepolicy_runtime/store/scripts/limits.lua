-- Decide and correct what limits count: any number of operations, one after the other, each of them whole.
--
-- ARGV  one text for each operation: its kind and its items. An item takes the next of KEYS, and one about a lease
--       also the next of ARGV, its id.
--   W   admit, where all items are windows in sub-buckets; an item is "limit length weight" (units, ms, units)
--   A   admit: counted in all of its items, or in none; an item is "letter a b c" (whole numbers)
--   S   shadow: answered like A, counted only if it has room and the W or A before it was admitted
--   T   correct: no answer
--   items of A and S    w limit length weight    window in sub-buckets (units, ms, units)
--                       l limit length weight    window with a log (requests, ms, requests)
--                       c limit timeout 0        leases (how many at once, ms)
--   items of T; in A they are carried out if it is refused
--                       v at length units        correct by units (may be negative) what was counted at this time (µs)
--                       m at length units        take so many requests out of a log that were counted at this time
--                       y timeout 0 0            renew a lease (ms)
--                       x 0 0 0                  end a lease
-- KEYS  window: "newest used count count …", the number of its newest sub-bucket, the sum of the counts, the counts
--       from the newest sub-bucket back (zeros at the end may be missing)
--       log: list of times (µs), the oldest first; leases: sorted set of ids by their end (ms)
-- answer "seconds microseconds", then for each W, A and S: 1 or 0, and for each of its windows, logs and leases
--       remaining (units), reset (ms): until everything is free again, retry (ms): 0, or until there is room
--
-- A window is cut into 10 sub-buckets of length/10. Counted are the current one and the 10 before it, the oldest
-- in full although a part of it has already left the window: never above the limit in any true window, and
-- what was used comes back at most length/10 late. The clock is the server's, in microseconds.
--
-- Nearly every operation is a W with room. That way is short, by itself and among others, and the rest is made when
-- something needs it: Lua makes its functions anew in each run, which took longer than the decision.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local floor, ceil, match, gmatch = math.floor, math.ceil, string.match, string.gmatch

-- The usual call: one window that has room, and was asked for in this sub-bucket before.
if #ARGV == 1 then
  local limit, length, weight = match(ARGV[1], '^W (%d+) (%d+) ([1-9]%d*)$')
  local stored = limit and redis.pcall('GET', KEYS[1])
  if type(stored) == 'string' then
    local newest, used, first, others = match(stored, '^(%d+) (%d+) (%d+)(.*)$')
    local sub = length * 100
    local left = newest and limit - used - weight
    if newest and left >= 0 and floor(now / sub) == tonumber(newest) then
      local changed = newest .. ' ' .. used + weight .. ' ' .. first + weight .. others
      redis.call('SET', KEYS[1], changed, 'PX', ceil(sub * 11 / 1000))
      local reset = ceil(((newest + 11) * sub - now) / 1000)
      return time[1] .. ' ' .. time[2] .. ' 1 ' .. left .. ' ' .. reset .. ' 0'
    end
  end
end

local windows, opened, rest = {}, {}, nil

local function more()
  local max = math.max
  -- What a caller without a slot is told to wait (ms): nobody knows when a request ends.
  local SLOT_RETRY = 1000
  local self = {}

  local function counts(w)
    local list = { w.first }
    for count in gmatch(w.rest, '%d+') do list[#list + 1] = tonumber(count) end
    return list
  end

  local function set_counts(w, list)
    w.first, w.used = list[1], 0
    for at = 1, #list do w.used = w.used + list[at] end
    w.rest = #list > 1 and ' ' .. table.concat(list, ' ', 2) or ''
  end

  -- Make `current` the newest sub-bucket.
  function self.move(w, current)
    local by = current - w.newest
    if by > 10 then
      set_counts(w, { 0 })
    elseif by > 0 then
      local list = counts(w)
      for _ = 1, by do table.insert(list, 1, 0) end
      for at = #list, 12, -1 do list[at] = nil end
      set_counts(w, list)
    elseif by < -10 then
      -- The server's clock was set back by more than the window: what is counted was counted just now.
      set_counts(w, { w.used })
      w.changed = true
    else
      -- It was set back by less: the newest sub-bucket stays the current one until the clock is there again.
      return
    end
    w.newest = current
  end

  function self.open(key, length)
    local w = windows[key]
    if w then return w end
    local sub = length * 100
    local current = floor(now / sub)
    w = { key = key, sub = sub, newest = current, used = 0, first = 0, rest = '' }
    local stored = redis.pcall('GET', key)
    if type(stored) == 'string' then
      local newest, used, first, others = match(stored, '^(%d+) (%d+) (%d+)(.*)$')
      if newest then
        w.newest, w.used, w.first, w.rest = tonumber(newest), tonumber(used), tonumber(first), others
        if w.newest ~= current then self.move(w, current) end
      end
    end
    windows[key], opened[#opened + 1] = w, w
    return w
  end

  local function leaves(w, age)
    return ceil(((w.newest - age + 11) * w.sub - now) / 1000)
  end

  function self.reset(w)
    for at, count in ipairs(w.used > 0 and counts(w) or {}) do
      if count > 0 then return leaves(w, at - 1) end
    end
    return 0
  end

  -- A weight above the limit never has room; it is told the whole window.
  function self.retry(w, limit, weight)
    local list, used = counts(w), w.used
    for at = #list, 1, -1 do
      used = used - list[at]
      if list[at] > 0 and used + weight <= limit then return leaves(w, at - 1) end
    end
    return leaves(w, 0)
  end

  local function correct(w, at, units)
    local age = w.newest - floor(at / w.sub)
    if age < 0 or age > 10 then return end
    local list = counts(w)
    for missing = #list + 1, age + 1 do list[missing] = 0 end
    list[age + 1] = max(0, list[age + 1] + units)
    set_counts(w, list)
    w.changed = true
  end

  local function entry(key, index)
    return tonumber(redis.call('LINDEX', key, index))
  end

  -- How many of the entries are not later than this time. They are sorted, so halve what is unknown.
  local function not_later(key, size, at)
    local low, high = 0, size
    while low < high do
      local middle = floor((low + high) / 2)
      if entry(key, middle) <= at then low = middle + 1 else high = middle end
    end
    return low
  end

  local function push(key, times, at)
    local text = string.format('%.0f', at)
    for _ = 1, times do redis.call('RPUSH', key, text) end
  end

  -- Forget what has left the window; returns how many entries are left.
  local function open_log(key, length)
    local size = redis.call('LLEN', key)
    if size == 0 then return 0 end
    if entry(key, size - 1) > now + length * 1000 then
      -- The clock was set back by more than the window, see above.
      local kept = not_later(key, size, now)
      if kept == 0 then redis.call('DEL', key) else redis.call('LTRIM', key, 0, kept - 1) end
      push(key, size - kept, now)
      redis.call('PEXPIRE', key, length)
    elseif entry(key, 0) <= now - length * 1000 then
      local gone = not_later(key, size, now - length * 1000)
      redis.call('LTRIM', key, gone, -1)
      return size - gone
    end
    return size
  end

  local function lease(key, timeout, id)
    redis.call('ZADD', key, floor(now / 1000) + timeout, id)
    redis.call('PEXPIRE', key, timeout)
  end

  local function open_leases(key, timeout)
    local moment = floor(now / 1000)
    redis.call('ZREMRANGEBYSCORE', key, '-inf', moment)
    local latest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
    if latest[2] and tonumber(latest[2]) > moment + 2 * timeout then
      -- The clock was set back: no lease may last longer than a new one.
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, moment + timeout, '+inf')) do
        lease(key, timeout, id)
      end
    end
    return redis.call('ZCARD', key)
  end

  -- For each kind of item that is decided: what is there; does this one fit; count it; what there is to tell.
  local deciding = {
    w = {
      open = function(key, item) return self.open(key, item.b) end,
      fits = function(w, item) return w.used + item.c <= item.a end,
      count = function(w, item)
        w.used, w.first, w.changed = w.used + item.c, w.first + item.c, true
      end,
      tell = function(w, item, fit)
        return max(0, item.a - w.used), self.reset(w), fit and 0 or self.retry(w, item.a, item.c)
      end,
    },
    l = {
      open = function(key, item) return { key = key, size = open_log(key, item.b) } end,
      fits = function(log, item) return log.size + item.c <= item.a end,
      count = function(log, item)
        local last = log.size > 0 and entry(log.key, log.size - 1) or 0
        push(log.key, item.c, max(now, last))
        redis.call('PEXPIRE', log.key, item.b + ceil(max(0, last - now) / 1000))
        log.size = log.size + item.c
      end,
      tell = function(log, item, fit)
        local function free(index) return ceil((entry(log.key, index) - now) / 1000) + item.b end
        local over = log.size + item.c - item.a
        return max(0, item.a - log.size), log.size > 0 and free(log.size - 1) or 0,
          fit and 0 or (over <= log.size and free(over - 1) or item.b)
      end,
    },
    c = {
      open = function(key, item) return { key = key, held = open_leases(key, item.b) } end,
      fits = function(slots, item) return slots.held < item.a end,
      count = function(slots, item, id)
        lease(slots.key, item.b, id)
        slots.held = slots.held + 1
      end,
      tell = function(slots, item, fit) return max(0, item.a - slots.held), 0, fit and 0 or SLOT_RETRY end,
    },
  }

  local correcting = {
    v = function(key, item) correct(self.open(key, item.b), item.a, item.c) end,
    m = function(key, item)
      if item.c > 0 then redis.call('LREM', key, -item.c, string.format('%.0f', item.a)) end
    end,
    y = function(key, item, id) lease(key, item.a, id) end,
    x = function(key, _, id) redis.call('ZREM', key, id) end,
  }

  local takes_id = { c = true, x = true, y = true }

  -- One operation of any kind but W. Returns how many keys and arguments it took, and whether it had room.
  function self.run(text, kind, key_at, arg_at, admitted, answer)
    local items, room, ids = {}, true, 0
    for letter, a, b, c in gmatch(text, '(%l) (%d+) (%d+) (%-?%d+)') do
      local item = { key = KEYS[key_at + #items + 1], a = tonumber(a), b = tonumber(b), c = tonumber(c) }
      items[#items + 1] = item
      if takes_id[letter] then
        ids = ids + 1
        item.id = ARGV[arg_at + ids]
      end
      item.decides, item.corrects = deciding[letter], correcting[letter]
      if item.decides then
        item.found = item.decides.open(item.key, item)
        item.fit = item.decides.fits(item.found, item)
        room = room and item.fit
      end
    end
    if kind ~= 'T' then answer[#answer + 1] = room and 1 or 0 end
    for _, item in ipairs(items) do
      if item.corrects then
        if kind == 'T' or not room then item.corrects(item.key, item, item.id) end
      else
        if room and (admitted or kind == 'A') then item.decides.count(item.found, item, item.id) end
        local remaining, reset, retry = item.decides.tell(item.found, item, item.fit)
        local last = #answer
        answer[last + 1], answer[last + 2], answer[last + 3] = remaining, reset, retry
      end
    end
    return #items, ids, room
  end

  return self
end

local answer, told = { time[1], time[2] }, 2
local read, key_at, arg_at, admitted = {}, 0, 1, true

while arg_at <= #ARGV do
  local text = ARGV[arg_at]
  local kind = string.sub(text, 1, 1)
  if kind == 'W' then
    local numbers = read[text]
    if not numbers then
      numbers = {}
      for number in gmatch(text, '%d+') do numbers[#numbers + 1] = tonumber(number) end
      read[text] = numbers
    end
    admitted = true
    for at = 1, #numbers, 3 do
      local key = KEYS[key_at + (at + 2) / 3]
      local w = windows[key]
      if not w then
        local sub = numbers[at + 1] * 100
        local newest, used, first, others
        local stored, current = redis.pcall('GET', key), floor(now / sub)
        if type(stored) == 'string' then newest, used, first, others = match(stored, '^(%d+) (%d+) (%d+)(.*)$') end
        if newest then
          w = { key = key, sub = sub, newest = tonumber(newest), used = tonumber(used), first = tonumber(first), rest = others }
          if w.newest ~= current then
            rest = rest or more()
            rest.move(w, current)
          end
        else
          w = { key = key, sub = sub, newest = current, used = 0, first = 0, rest = '' }
        end
        windows[key], opened[#opened + 1] = w, w
      end
      if w.used + numbers[at + 2] > numbers[at] then admitted = false end
    end
    told = told + 1
    answer[told] = admitted and 1 or 0
    for at = 1, #numbers, 3 do
      local w, limit, weight = windows[KEYS[key_at + (at + 2) / 3]], numbers[at], numbers[at + 2]
      local fit = w.used + weight <= limit
      local reset, retry = 0, 0
      if admitted then w.used, w.first, w.changed = w.used + weight, w.first + weight, true end
      if w.first > 0 then
        reset = ceil(((w.newest + 11) * w.sub - now) / 1000)
      elseif w.used > 0 then
        rest = rest or more()
        reset = rest.reset(w)
      end
      if not fit then
        rest = rest or more()
        retry = rest.retry(w, limit, weight)
      end
      answer[told + 1], answer[told + 2], answer[told + 3] = w.used < limit and limit - w.used or 0, reset, retry
      told = told + 3
    end
    key_at, arg_at = key_at + #numbers / 3, arg_at + 1
  else
    rest = rest or more()
    local keys, ids, room = rest.run(text, kind, key_at, arg_at, admitted, answer)
    if kind == 'A' then admitted = room end
    key_at, arg_at, told = key_at + keys, arg_at + 1 + ids, #answer
  end
end

for at = 1, #opened do
  local w = opened[at]
  if w.changed then
    redis.call('SET', w.key, w.newest .. ' ' .. w.used .. ' ' .. w.first .. w.rest, 'PX', ceil(w.sub * 11 / 1000))
  end
end

return table.concat(answer, ' ')
