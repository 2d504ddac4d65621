-- Which tenant's turn it is at a worker's slot: goes before each of the queue's other scripts, whose first key is the
-- queue.
--
-- The queue is a sorted set of the jobs that are due later, by ms: those that wait for a retry, and those that a worker
-- has taken, which are due again when they count as lost. A job that is due is not in it, but in a set of its tenant's,
-- by priority and time. The tenants of these sets stand in a sorted set of their own, the next one first: the one with the
-- fewest jobs at work, and of equals the one for which this has been so for longest. So slots are shared, not starts: a
-- tenant of long runs takes no more of them than one of short runs, and who has none at work waits for one slot.
--
-- All that is to be known of a job is its id: run:attempt:priority:tenant. Jobs of other ids share one nameless tenant.
-- Times are this server's, so that processes need not agree on them.

local QUEUE, TURNS = KEYS[1], KEYS[1] .. ':turns'
local SPAN = 2 ^ 42 -- ms: more than the time until 2109, as the lower part of a score
local MOST = 2 ^ 11 - 1 -- jobs at work, as the upper part: together they are exact in a double

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function owner(id)
  local priority, tenant = string.match(id, '^[^:]*:[^:]*:(-?%d+):(.*)$')
  return tenant or '', tonumber(priority or 0)
end

local function due_of(tenant) return QUEUE .. ':due:' .. tenant end
local function at_work_of(tenant) return QUEUE .. ':at-work:' .. tenant end

-- Its jobs at work, or those that are due, have become others.
local function take_place(tenant)
  if redis.call('EXISTS', due_of(tenant)) == 0 then
    redis.call('ZREM', TURNS, tenant)
  else
    local at_work = math.min(redis.call('SCARD', at_work_of(tenant)), MOST)
    redis.call('ZADD', TURNS, at_work * SPAN + now, tenant)
  end
end

-- A job that is not in the queue any more is due, since then.
local function make_due(id, since)
  local tenant, priority = owner(id)
  redis.call('ZADD', due_of(tenant), priority * SPAN + since, id)
  local was_taken = redis.call('SREM', at_work_of(tenant), id) == 1
  if was_taken or not redis.call('ZSCORE', TURNS, tenant) then take_place(tenant) end
end

