{{- define "gumball.name" -}}
{{- $name := .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- contains "gumball" $name | ternary $name (printf "%s-gumball" $name) -}}
{{- end }}

{{- define "gumball.selector" -}}
app.kubernetes.io/name: gumball
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gumball.labels" -}}
{{ include "gumball.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "gumball.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* As the server reads it: Helm has read every number as a float, and would write 67108864 as 6.7108864e+07. */}}
{{- define "gumball.setting" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
