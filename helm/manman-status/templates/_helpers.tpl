{{/* Room for the longest suffix, `-processor`: names of Services and labels end at 63. */}}
{{- define "manman-status.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end }}

{{- define "manman-status.prefix" -}}
{{- include "manman-status.fullname" . | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{- define "manman-status.api" -}}
{{- .Values.apis.status.name | default (printf "%s-api" (include "manman-status.prefix" .)) -}}
{{- end }}

{{- define "manman-status.processor" -}}
{{- .Values.processors.status.name | default (printf "%s-processor" (include "manman-status.prefix" .)) -}}
{{- end }}

{{- define "manman-status.bridge" -}}
{{- printf "%s-bridge" (include "manman-status.prefix" .) -}}
{{- end }}

{{- define "manman-status.migrate" -}}
{{- printf "%s-migrate" (include "manman-status.prefix" .) -}}
{{- end }}

{{- define "manman-status.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* (list $ "api") */}}
{{- define "manman-status.selectorLabels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Without what changes with each version of the chart: pods need not be replaced for that. */}}
{{- define "manman-status.podLabels" -}}
{{ include "manman-status.selectorLabels" . }}
app.kubernetes.io/part-of: manman
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "manman-status.labels" -}}
{{- $ := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{ include "manman-status.selectorLabels" . }}
app.kubernetes.io/part-of: manman
app.kubernetes.io/version: {{ $.Values.image.tag | default $.Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* (list .Values.….serviceAccount "name when it is made") */}}
{{- define "manman-status.serviceAccount" -}}
{{- $account := index . 0 -}}
{{- $account.name | default (ternary (index . 1) "default" $account.create) -}}
{{- end }}

{{- define "manman-status.podSecurityContext" -}}
runAsNonRoot: true
{{- range $name, $id := .Values.podSecurityContext }}
{{ $name }}: {{ int64 $id }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "manman-status.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod has: $ */}}
{{- define "manman-status.pod" -}}
automountServiceAccountToken: false
# Else Kubernetes adds variables named after Services, MANMAN_STATUS_…, and what is no setting is refused.
enableServiceLinks: false
securityContext:
  {{- include "manman-status.podSecurityContext" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a pod may run, of .Values.….status or .Values.migrations */}}
{{- define "manman-status.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* (list $ .Values.….status "api") */}}
{{- define "manman-status.spread" -}}
{{- $ := index . 0 -}}
{{- if (index . 1).topologySpreadConstraints -}}
{{ toYaml (index . 1).topologySpreadConstraints }}
{{- else -}}
{{- $selector := include "manman-status.selectorLabels" (list $ (index . 2)) -}}
{{- range $place := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ $place }}
  whenUnsatisfiable: ScheduleAnyway
  # Only pods of one revision are counted, so that a rollout does not spread new pods around old ones.
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end }}
{{- end -}}
{{- end }}

{{/* Seconds to finish what was begun, and as many as a slow machine needs for the rest. */}}
{{- define "manman-status.grace" -}}
{{- add 20 (ceil (.Values.settings.MANMAN_STATUS_SHUTDOWN_TIMEOUT_SECONDS | default 10)) -}}
{{- end }}

{{/* JSON writes 2000000 where text would be 2e+06. */}}
{{- define "manman-status.settings" -}}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{- define "manman-status.databaseSecret" -}}
{{- if .Values.database.url -}}{{ include "manman-status.prefix" . }}-database{{- else -}}{{ .Values.database.existingSecret }}{{- end -}}
{{- end }}

{{- define "manman-status.rabbitmqSecret" -}}
{{- if .Values.rabbitmq.url -}}{{ include "manman-status.prefix" . }}-rabbitmq{{- else -}}{{ .Values.rabbitmq.existingSecret }}{{- end -}}
{{- end }}

{{- define "manman-status.rabbitmqKey" -}}
{{- if .Values.rabbitmq.url -}}rabbitmq-url{{- else -}}{{ .Values.rabbitmq.key }}{{- end -}}
{{- end }}

{{/* Empty without tokens. */}}
{{- define "manman-status.apiTokensSecret" -}}
{{- if .Values.apiTokens.value -}}{{ include "manman-status.prefix" . }}-api-tokens{{- else -}}{{ .Values.apiTokens.existingSecret }}{{- end -}}
{{- end }}

{{/* Where one of the tokens is alone; empty where it is not. */}}
{{- define "manman-status.oneTokenKey" -}}
{{- if .Values.apiTokens.value -}}one-token{{- else if .Values.apiTokens.existingSecret -}}{{ .Values.apiTokens.metricsKey }}{{- end -}}
{{- end }}

{{/* As YAML: the `secret` of notifications, and the keys there of `urls` and `routes`; empty is what there is none of. */}}
{{- define "manman-status.notifications" -}}
{{- with .Values.notifications -}}
{{- if or .urls .routes -}}
secret: {{ include "manman-status.prefix" $ }}-notifications
urls: {{ .urls | empty | ternary "" "notify-urls" }}
routes: {{ .routes | empty | ternary "" "routes.toml" }}
{{- else if .existingSecret -}}
secret: {{ .existingSecret | quote }}
urls: {{ .key | quote }}
routes: {{ .routesKey | quote }}
{{- else if .routesKey -}}
{{- fail "notifications.routesKey is a key in notifications.existingSecret, which is empty" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* (list "VARIABLE" "secret" "key") */}}
{{- define "manman-status.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end }}

{{/* (list $ "secret"): the Job has a Secret of its own. */}}
{{- define "manman-status.databaseEnv" -}}
{{- $ := index . 0 -}}
{{- $key := $.Values.database.url | empty | ternary $.Values.database.key "database-url" -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_DATABASE_URL" (index . 1) $key) }}
{{- end }}

{{- define "manman-status.rabbitmqEnv" -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_RABBITMQ_URL" (include "manman-status.rabbitmqSecret" .) (include "manman-status.rabbitmqKey" .)) }}
{{- end }}

{{- define "manman-status.bridgeEnv" -}}
{{- with .Values.bridge -}}
{{- if .url -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_MANMAN_DATABASE_URL" (include "manman-status.bridge" $) "manman-database-url") }}
{{- else -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_MANMAN_DATABASE_URL" .existingSecret .key) }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "manman-status.readUrlEnv" -}}
{{- with .Values.database -}}
{{- if .readUrl -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_DATABASE_READ_URL" (printf "%s-database" (include "manman-status.prefix" $)) "database-read-url") }}
{{- else if and .readKey (not .url) -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_DATABASE_READ_URL" .existingSecret .readKey) }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "manman-status.apiTokensEnv" -}}
{{- with include "manman-status.apiTokensSecret" . -}}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_API_TOKENS" . ($.Values.apiTokens.value | empty | ternary $.Values.apiTokens.key "api-tokens")) }}
{{- if and $.Values.apiTokens.metricsKey (not $.Values.apiTokens.value) }}
{{ include "manman-status.secretEnv" (list "MANMAN_STATUS_METRICS_TOKENS" . $.Values.apiTokens.metricsKey) }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Selects the api's own series, and those of kube-state-metrics about the processor's Deployment. */}}
{{- define "manman-status.apiSeries" -}}
job="{{ include "manman-status.api" . }}",namespace="{{ .Release.Namespace }}"
{{- end }}

{{- define "manman-status.processorSeries" -}}
deployment="{{ include "manman-status.processor" . }}",namespace="{{ .Release.Namespace }}"
{{- end }}

{{/* The weight of a hook that comes before an install or upgrade. Kept when the Job fails, for whoever looks why. */}}
{{- define "manman-status.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* Of a NetworkPolicy: (list peers ports) */}}
{{- define "manman-status.egress" -}}
- ports:
    {{- range index . 1 }}
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
  {{- with index . 0 }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* .Values.networkPolicy */}}
{{- define "manman-status.dnsEgress" -}}
- ports:
    {{- range .dnsPorts }}
    - port: {{ int . }}
      protocol: UDP
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
{{- end }}
