-- How many jobs wait or are being run. KEYS: queue.

local depth = redis.call('ZCARD', QUEUE)
for _, tenant in ipairs(redis.call('ZRANGE', TURNS, 0, -1)) do
  depth = depth + redis.call('ZCARD', due_of(tenant))
end
return depth
