-- A load for wrk: random requests, one for each number of a range.
-- Arguments: method, path and body with a %d for the number; the first and last number and the step; the tokens of the
-- users from user 1, separated by spaces. Request n has the token of user 1 + (n - 1) % users.

local all = {}

function init(arguments)
  local method, path, body = arguments[1], arguments[2], arguments[3]
  local tokens = {}
  for token in arguments[7]:gmatch("%S+") do tokens[#tokens + 1] = token end
  for number = tonumber(arguments[4]), tonumber(arguments[5]), tonumber(arguments[6]) do
    local headers, content = {}, nil
    if #tokens > 0 then headers["Authorization"] = "Bearer " .. tokens[1 + (number - 1) % #tokens] end
    if body ~= "" then
      headers["Content-Type"] = "application/json"
      content = body:format(number)
    end
    all[#all + 1] = wrk.format(method, path:format(number), headers, content)
  end
  math.randomseed(os.time())
end

function request()
  return all[math.random(#all)]
end

-- In JSON, latencies in milliseconds. wrk counts a status as an error from 400 on.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "requests_per_second": %f, "p50": %f, "p99": %f, "p999": %f, "errors": %d}\n',
    summary.requests, summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout
  ))
end
