-- A POST with a small JSON body, and the summary as one line of JSON on standard error.
wrk.method = "POST"
wrk.body = '{"case_id": "c-1", "question": "What is the most likely diagnosis, and why?"}'
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency)
  local errors = summary.errors
  io.stderr:write(string.format(
    '{"requests": %d, "seconds": %.6f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
