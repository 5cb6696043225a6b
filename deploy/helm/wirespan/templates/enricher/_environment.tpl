{{/* Environment of the enricher alone. */}}
{{- define "wirespan.enricherEnv" -}}
{{- with .Values.rbac.namespaces }}
- name: WIRESPAN_KUBE_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_KUBE_" "settings" .Values.settings.kube) }}
{{- if .Values.correlation.intake.enabled }}
- name: WIRESPAN_ENRICHER_INTAKE
  value: "true"
- name: WIRESPAN_ENRICHER_INTAKE_HOST
  value: {{ .Values.health.host | quote }}
{{- if .Values.correlation.intake.authorizationSecret }}
- name: WIRESPAN_ENRICHER_INTAKE_AUTHORIZATION_FILE
  value: /etc/wirespan/intake/authorization
{{- end }}
{{- if .Values.correlation.intake.tlsSecret }}
- name: WIRESPAN_ENRICHER_INTAKE_TLS_CERT
  value: /etc/wirespan/intake-tls/tls.crt
- name: WIRESPAN_ENRICHER_INTAKE_TLS_KEY
  value: /etc/wirespan/intake-tls/tls.key
{{- end }}
{{- end }}
{{- end -}}
