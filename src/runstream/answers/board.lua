-- One step of those who share answers. KEYS: the answer to a request, the call that asks for it, and the beginnings of
-- the names of who reads a call, and of that it is being made: it is though another one asks for the same, as may be
-- once Redis was emptied. ARGV: step, call, milliseconds that what is said holds, reader; then the answer to disregard,
-- or the one to keep, and for how many milliseconds. Answers two values: what there is, or whether the call is being
-- made; and its name, or how many others read it.

local step, call, lease, reader = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local asking = redis.call('GET', KEYS[2])

local function read_by(name)
  redis.call('ZADD', KEYS[3] .. name, now + lease, reader)
  redis.call('PEXPIRE', KEYS[3] .. name, lease)
end

local function made()
  redis.call('SET', KEYS[4] .. call, reader, 'PX', lease)
end

local function readers()
  redis.call('ZREMRANGEBYSCORE', KEYS[3] .. call, '-inf', now)
  return redis.call('ZCARD', KEYS[3] .. call)
end

if step == 'open' then
  local answered = redis.call('GET', KEYS[1])
  if answered and answered ~= ARGV[5] then return {'answered', answered} end
  if asking then
    read_by(asking)
    return {'asking', asking}
  end
  redis.call('SET', KEYS[2], call, 'PX', lease)
  made()
  return {'own', call}
end
if step == 'lead' then
  made()
  if not asking then
    redis.call('SET', KEYS[2], call, 'PX', lease)
  elseif asking == call then
    redis.call('PEXPIRE', KEYS[2], lease)
  end
  return {1, readers()}
end
if step == 'follow' then
  read_by(call)
  return {redis.call('EXISTS', KEYS[4] .. call), 0}
end
if step == 'keep' or step == 'release' then
  if ARGV[6] then redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6]) end
  if step == 'keep' then return {0, 0} end
end
if step == 'leave' then
  redis.call('ZREM', KEYS[3] .. call, reader)
  return {0, 0}
end
-- 'abandon': only where nobody else reads it; 'release': in any case
local others = readers()
if step == 'release' or others == 0 then
  redis.call('DEL', KEYS[4] .. call)
  if asking == call then redis.call('DEL', KEYS[2]) end
end
return {0, others}
