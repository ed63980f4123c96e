{{/* What the workloads have in common. Arguments: a dict with root ($) and component. */}}

{{- define "callspool.name" -}}
{{- if contains "callspool" .root.Release.Name -}}
{{ .root.Release.Name }}-{{ .component }}
{{- else -}}
{{ .root.Release.Name }}-callspool-{{ .component }}
{{- end -}}
{{- end -}}

{{- define "callspool.selector" -}}
app.kubernetes.io/name: callspool
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "callspool.metadata" -}}
name: {{ include "callspool.name" . }}
labels:
  {{- include "callspool.selector" . | nindent 2 }}
{{- end -}}

{{- define "callspool.podmetadata" -}}
labels:
  {{- include "callspool.selector" . | nindent 2 }}
{{- if .root.Values.config }}
annotations:
  callspool/config: {{ sha256sum .root.Values.config | trunc 16 }}
{{- end }}
{{- end -}}

{{/* A pod: no token of Kubernetes, not root, a volume that its group may write to. */}}
{{- define "callspool.pod" -}}
automountServiceAccountToken: false
{{- with .root.Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
securityContext:
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
{{- end -}}

{{- define "callspool.image" -}}
{{- with .root.Values.image -}}
image: {{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.root.Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ .pullPolicy }}
{{- end -}}
{{- end -}}

{{- define "callspool.security" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Variables of the values, then those of the workload (env, a dict). */}}
{{- define "callspool.env" -}}
env:
  {{- $traces := dict }}
  {{- with .root.Values.traces.endpoint }}
  {{- $traces = dict "CALLSPOOL_TRACES_ENDPOINT" . "CALLSPOOL_TRACES_SAMPLE_RATIO" $.root.Values.traces.sampleRatio }}
  {{- end }}
  {{- range $name, $value := merge (dict) .env .root.Values.env $traces }}
  - {name: {{ $name }}, value: {{ $value | toString | quote }}}
  {{- end }}
{{- with .root.Values.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{/* Variables of everything that has a spool. */}}
{{- define "callspool.spoolenv" -}}
CALLSPOOL_SPOOL_MAX_BYTES: {{ .root.Values.spool.maxBytes | quote }}
CALLSPOOL_SHUTDOWN_DEADLINE: {{ .root.Values.shutdown.deadline | quote }}
{{- if .root.Values.config }}
CALLSPOOL_CONFIG: /etc/callspool/callspool.toml
{{- end }}
{{- if .root.Values.shutdown.evacuateTo }}
CALLSPOOL_SHUTDOWN_EVACUATE_TO: {{ .root.Values.shutdown.evacuateTo | quote }}
CALLSPOOL_SHUTDOWN_EVACUATE_WITHIN: {{ .root.Values.shutdown.evacuateWithin | quote }}
{{- end }}
{{- end -}}

{{/* No probe depends on a destination: a dashboard that is down must neither restart callspool nor stop its agent. */}}
{{- define "callspool.probes" -}}
startupProbe:
  httpGet: {path: {{ .startup | default "/readyz" }}, port: admin}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{- define "callspool.mounts" -}}
volumeMounts:
  - {name: spool, mountPath: /var/lib/callspool}
  {{- include "callspool.smallmounts" . | nindent 2 }}
{{- end -}}

{{- define "callspool.smallmounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .root.Values.config }}
- {name: config, mountPath: /etc/callspool/callspool.toml, subPath: callspool.toml, readOnly: true}
{{- end }}
{{- end -}}

{{- define "callspool.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if .root.Values.config }}
- name: config
  configMap: {name: {{ include "callspool.name" (dict "root" .root "component" "config") }}}
{{- end }}
{{- end -}}

{{- define "callspool.claim" -}}
metadata:
  name: spool
spec:
  accessModes: [ReadWriteOnce]
  {{- with .root.Values.spool.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ .root.Values.spool.size }}}
{{- end -}}
