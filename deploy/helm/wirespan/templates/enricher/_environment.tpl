{{/* Environment of the enricher alone. */}}
{{- define "wirespan.enricherEnv" -}}
{{- with .Values.rbac.namespaces }}
- name: WIRESPAN_KUBE_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_KUBE_" "settings" .Values.settings.kube) }}
{{- end -}}
