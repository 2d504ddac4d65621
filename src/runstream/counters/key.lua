-- What a key's last minute held, and how far it is ahead of an even pace; shared by the scripts on a provider's line.
--
-- A key is a hash: `at`, the last second that it was looked at in; `r<second>` and `t<second>`, the requests and tokens
-- of each second that counts; `r` and `t`, their sums; `pr` and `pt`, the ms at which its pace is even again.
--
-- Two things bound it. The sums of the last 60 seconds and the present one: so no 60 seconds, wherever they begin, hold
-- more than the rate, and what a call gives back is missing from just the second that it was reserved in. And a pace: a
-- tenth of a minute's worth may go at once, the rest evenly. Without it, one tenant's burst would take the whole minute,
-- and another's single call would wait for the next.

local SECONDS = 60
local AT_ONCE = 10
local KEEP = 3 * SECONDS * 1000

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function sum(values)
  local all = 0
  for _, value in ipairs(values) do all = all + tonumber(value or 0) end
  return all
end

-- Take what counts no more out of a key's sums.
local function look(name, second)
  local read = redis.call('HMGET', name, 'at', 'r', 't', 'pr', 'pt')
  local key = { name = name }
  for i, field in ipairs({ 'at', 'r', 't', 'pr', 'pt' }) do key[field] = tonumber(read[i] or 0) end
  if second > key.at and key.at > 0 then
    for _, measure in ipairs({ 'r', 't' }) do
      local fields = {}
      for gone = key.at - SECONDS, math.min(key.at, second - SECONDS - 1) do fields[#fields + 1] = measure .. gone end
      local less = sum(redis.call('HMGET', name, unpack(fields)))
      if less ~= 0 then key[measure] = redis.call('HINCRBY', name, measure, -less) end
      redis.call('HDEL', name, unpack(fields))
    end
    redis.call('HSET', name, 'at', second)
  end
  return key
end

-- ms until there is room for so much of a measure: 0 where there is now.
local function wait_of(key, measure, amount, rate, now)
  if rate == 0 then return 0 end
  local share = math.max(1, rate / AT_ONCE)
  local even = math.max(0, key['p' .. measure] - now) + (math.min(amount, share) - share) * SECONDS * 1000 / rate
  local over = key[measure] + math.min(amount, rate) - rate
  if over <= 0 then return math.max(0, even) end
  local second, fields = math.floor(now / 1000), {}
  for at = second - SECONDS, second do fields[#fields + 1] = measure .. at end
  for i, held in ipairs(redis.call('HMGET', key.name, unpack(fields))) do
    over = over - tonumber(held or 0)
    if over <= 0 then return math.max(even, (second + i) * 1000 - now) end
  end
  return math.max(even, (SECONDS + 1) * 1000)
end

-- When a key's pace is even again, after so much more.
local function paced(even, amount, rate, now)
  return math.max(even, now) + math.min(amount, rate) * SECONDS * 1000 / rate
end
