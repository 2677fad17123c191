{{- define "sessionkeeper.name" -}}
{{- if contains "sessionkeeper" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-sessionkeeper" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sessionkeeper.labels" -}}
app.kubernetes.io/name: sessionkeeper
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sessionkeeper.selector" -}}
app.kubernetes.io/name: sessionkeeper
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sessionkeeper.secret" -}}
{{ .Values.secrets.existingSecret | default (include "sessionkeeper.name" .) }}
{{- end }}

{{- define "sessionkeeper.gatewayImage" -}}
{{ .Values.images.gateway.repository }}:{{ .Values.images.gateway.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sessionkeeper.agentImage" -}}
{{ .Values.images.agent.repository }}:{{ .Values.images.agent.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sessionkeeper.gatewayUrl" -}}
http://{{ include "sessionkeeper.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.gateway.service.port }}
{{- end }}

{{/* What the restricted Pod Security Standard wants: the gateway and the UI run no user code. */}}
{{- define "sessionkeeper.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "sessionkeeper.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "sessionkeeper.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
