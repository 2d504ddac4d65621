-- Append events to the logs of several runs, and publish each one: there is no state in which one happened
-- without the other.
--
-- KEYS: a run's key each. ARGV, for each key: attempt, start, time to live in ms, number of events n, then n
-- times: end, body. Answers for each key: outcome (see log.py's Outcome), position reached.

local APPENDED, AHEAD, LOST, FENCED, REFUSED = 0, 1, 2, 3, 4

local function top(key)
  local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if not last then return 0, 0 end
  local dash = string.find(last[1], '-', 1, true)
  return tonumber(string.sub(last[1], 1, dash - 1)), tonumber(string.sub(last[1], dash + 1))
end

-- What stands in the way of events that begin at `start`, if anything does.
local function obstacle(key, attempt, start)
  local top_attempt, top_end = top(key)
  if top_attempt > attempt then return FENCED, top_end end
  if top_attempt < attempt then
    if start > 0 then return LOST, 0 end
    if top_attempt > 0 then redis.call('DEL', key) end
    return nil, 0
  end
  if top_end < start then return LOST, top_end end
  if top_end > start then return AHEAD, top_end end
  return nil, top_end
end

local answer = {}
local at = 1
for _, key in ipairs(KEYS) do
  local attempt, start, ttl, n = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local outcome, reached = obstacle(key, attempt, start)
  if not outcome then
    outcome = APPENDED
    for i = 0, n - 1 do
      local position, body = ARGV[at + 2 * i], ARGV[at + 2 * i + 1]
      local id = ARGV[at - 4] .. '-' .. position
      local added = redis.pcall('XADD', key, id, 'e', body)
      if type(added) == 'table' and added.err then
        outcome = REFUSED
        break
      end
      redis.call('PUBLISH', key, id .. ' ' .. body)
      reached = tonumber(position)
    end
    redis.call('PEXPIRE', key, ttl)
  end
  at = at + 2 * n
  answer[#answer + 1] = outcome
  answer[#answer + 1] = reached
end
return answer
