-- Health of a FineTuneJob for Argo CD: resource.customizations.health.finetune.dev_FineTuneJob
local health = { status = "Progressing", message = "Waiting for the operator" }

local function verdict(status, message)
  health.status = status
  health.message = message or ""
  return health
end

if obj.status == nil or obj.status.conditions == nil then
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end

local function is_true(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

-- Both are final: neither a later edit of the manifest nor spec.suspend changes what has happened.
if is_true("Failed") then
  return verdict("Degraded", conditions.Failed.message)
end
if is_true("Complete") then
  return verdict("Healthy", conditions.Complete.message)
end

if obj.status.observedGeneration ~= obj.metadata.generation then
  return verdict("Progressing", "Waiting for the operator to see the newest manifest")
end
-- It waits for somebody to mend something else, such as a profile or the job that it starts from, and then goes on.
if is_true("Stalled") then
  return verdict("Degraded", conditions.Stalled.message)
end
if is_true("Suspended") then
  return verdict("Suspended", conditions.Suspended.message)
end

local message = obj.status.state or ""
local progress = obj.status.progress
if progress ~= nil and progress.step ~= nil and progress.totalSteps ~= nil then
  message = message .. ": step " .. progress.step .. " of " .. progress.totalSteps
elseif is_true("Reconciling") and conditions.Reconciling.message ~= nil and conditions.Reconciling.message ~= "" then
  message = message .. ": " .. conditions.Reconciling.message
end
return verdict("Progressing", message)
