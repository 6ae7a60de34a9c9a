-- What wrk asks for, by COMPARE_KEYS: nothing (one page), "zipf SIZE", "all SIZE" or "new RUN"; COMPARE_DELAY: ms before each
-- request of a connection. Prints the figures as JSON.
local kind, argument = (os.getenv("COMPARE_KEYS") or ""):match("^(%S+) (%S+)$")
local wait = tonumber(os.getenv("COMPARE_DELAY") or "")
local KEYS, SEQUENCE = 10000, 65536
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local requests, sequence, position = {}, {}, 0

function init(args)
  position = 0
  if kind == "zipf" or kind == "all" then
    for key = 1, KEYS do
      requests[key] = wrk.format("GET", "/page/" .. argument .. "/" .. key)
    end
  end
  if kind == "zipf" then
    local sums, sum = {}, 0
    for rank = 1, KEYS do
      sum = sum + 1 / rank
      sums[rank] = sum
    end
    math.randomseed(number)
    for i = 1, SEQUENCE do
      local point, low, high = math.random() * sum, 1, KEYS
      while low < high do
        local middle = math.floor((low + high) / 2)
        if sums[middle] < point then low = middle + 1 else high = middle end
      end
      sequence[i] = requests[low]
    end
  end
end

if kind == "zipf" then
  function request()
    position = position % SEQUENCE + 1
    return sequence[position]
  end
elseif kind == "all" then
  -- each of the two threads asks for its half
  function request()
    position = position + 1
    return requests[(position * 2 - number) % KEYS + 1]
  end
elseif kind == "new" then
  function request()
    position = position + 1
    return wrk.format("GET", "/miss/" .. argument .. "-" .. number .. "-" .. position)
  end
end

if wait then
  function delay() return wait end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50": %d, "p99": %d, "p999": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
