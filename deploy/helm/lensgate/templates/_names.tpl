{{- define "lensgate.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "lensgate.selector" -}}
app.kubernetes.io/name: lensgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lensgate.labels" -}}
{{ include "lensgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
