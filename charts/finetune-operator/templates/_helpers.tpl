{{- define "finetune.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Cluster-scoped names: releases of one name may live in several namespaces. */}}
{{- define "finetune.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "finetune.name" .) }}
{{- end }}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "finetune.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "finetune.name" .) }}
{{- end }}

{{/* An image's reference, of a dictionary with its values, their path and the chart. */}}
{{- define "finetune.image" -}}
{{- $repository := required (printf "%s.repository is empty: set it to where the image was pushed (a released chart has it)" .path) .image.repository -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $repository .image.digest }}
{{- else -}}
{{ printf "%s:%s" $repository (.image.tag | default .chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- define "finetune.progressUrl" -}}
{{ .Values.progress.url | default (printf "https://%s.%s.svc:%d" (include "finetune.name" .) .Release.Namespace (int .Values.progress.port)) }}
{{- end }}

{{/* A role and its binding to the operator: kind, name, namespace (or ""), rules and the chart's root. */}}
{{- define "finetune.grant" -}}
{{- $labels := include "finetune.labels" .root -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
rules:
{{ .rules | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ include "finetune.serviceAccount" .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end }}
