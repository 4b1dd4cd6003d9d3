-- Asks quotas about one request, for HAProxy. Printed by `quotas gateway haproxy --lua`; haproxy.cfg loads it.
--
-- Allowed: sets txn.quotas_allowed, and txn.quotas_client, _plan, _subject, _degraded and the rate limit fields as
-- far as they were answered. Refused: ends the request with the answer of quotas. Not answered: sets nothing.

local CHECK = "abns@quotas-check-<<listen_port>>"
local PATIENCE_MS = <<patience_ms>> -- The listener at CHECK gives up before.

-- Nothing else of the client's goes to quotas, and no body.
local ASKED = {
    "authorization", "x-api-key", "origin", "access-control-request-method",
%% if credential_header
    "<<credential_header>>",
%% end
%% if credential_cookie
    "cookie",
%% end
}
local RATE_LIMIT = {
    "ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
}
local IDENTITY = { "x-quotas-client", "x-quotas-plan", "x-quotas-subject", "x-quotas-degraded" }
local REFUSAL = {
    "retry-after", "www-authenticate", "cache-control", "content-type", "x-quotas-reason", "x-quotas-limit",
}

-- The lines of one field, as a list from 1 on.
local function lines(headers, name)
    local found = {}
    local index = 0
    while headers[name] and headers[name][index] do
        found[index + 1] = headers[name][index]
        index = index + 1
    end
    return found
end

local function ask(txn)
    local sent = txn.http:req_get_headers()
    local headers = {
        ["host"] = { "quotas" },
        -- On a kept connection HAProxy hides that a server was lost, and this client would ask once more.
        ["connection"] = { "close" },
        ["x-forwarded-for"] = { txn.sf:src() },
        ["x-forwarded-method"] = { txn.sf:method() },
        ["x-forwarded-uri"] = { txn.sf:pathq() },
        ["x-request-id"] = { txn.sf:uuid() },
    }
    for _, name in ipairs(ASKED) do
        if sent[name] then
            headers[name] = lines(sent, name)
        end
    end
    return core.httpclient():get({
        url = "http://quotas/check", dst = CHECK, headers = headers, timeout = PATIENCE_MS,
    })
end

local function keep(txn, headers, names)
    for _, name in ipairs(names) do
        local value = lines(headers, name)[1]
        if value then
            local short = name:gsub("^x%-quotas%-", ""):gsub("%-", "_")
            txn:set_var("txn.quotas_" .. short, value)
        end
    end
end

local function refuse(txn, answer)
    local reply = txn:reply({ status = answer.status, body = answer.body })
    for _, names in ipairs({ RATE_LIMIT, REFUSAL }) do
        for _, name in ipairs(names) do
            for _, value in ipairs(lines(answer.headers, name)) do
                reply:add_header(name, value)
            end
        end
    end
    txn:done(reply)
end

core.register_action("quotas_check", { "http-req" }, function(txn)
    local answer = ask(txn)
    local headers = answer and answer.headers or {}
    if answer and answer.status == 200 then
        keep(txn, headers, IDENTITY)
        keep(txn, headers, RATE_LIMIT)
        txn:set_var("txn.quotas_allowed", true)
    elseif headers["x-quotas-reason"] then -- On every refusal of quotas; what answers in its place has none.
        refuse(txn, answer)
    end
end, 0)
