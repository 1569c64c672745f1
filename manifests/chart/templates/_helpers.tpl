{{- define "nodemesh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What differs from the program's own defaults. */ -}}
{{- define "nodemesh.environment" -}}
{{- if ne .Release.Namespace "nodemesh-system" }}
- name: NODEMESH_ROOT_NAMESPACE
  value: {{ .Release.Namespace | quote }}
{{- end }}
{{- if ne .Values.trustDomain "cluster.local" }}
- name: NODEMESH_TRUST_DOMAIN
  value: {{ .Values.trustDomain | quote }}
{{- end }}
{{- if ne .Values.log "info" }}
- name: NODEMESH_LOG
  value: {{ .Values.log | quote }}
{{- end }}
{{- end }}
