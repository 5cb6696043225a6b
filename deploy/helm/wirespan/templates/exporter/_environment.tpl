{{/* Environment of the exporter alone: the backend. */}}
{{- define "wirespan.exporterEnv" -}}
{{- $otlp := .Values.otlp -}}
- name: WIRESPAN_EXPORTER_PRESET
  value: {{ .Values.exporter.preset | quote }}
{{- if not .Values.exporter.settings.output_file }}
- name: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
  value: {{ required "otlp.endpoint: where spans go, for instance http://tempo.observability:4317" $otlp.endpoint | quote }}
{{- end }}
- name: OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
  value: {{ $otlp.protocol | quote }}
- name: OTEL_EXPORTER_OTLP_TRACES_COMPRESSION
  value: {{ $otlp.compression | quote }}
- name: OTEL_EXPORTER_OTLP_TRACES_TIMEOUT
  value: {{ include "wirespan.asText" $otlp.timeoutMilliseconds | quote }}
{{- if $otlp.insecure }}
- name: OTEL_EXPORTER_OTLP_TRACES_INSECURE
  value: "true"
{{- end }}
{{- if or $otlp.headers $otlp.existingSecret }}
- name: OTEL_EXPORTER_OTLP_TRACES_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-otlp" (include "wirespan.fullname" .)) $otlp.existingSecret }}
      key: {{ ternary $otlp.existingSecretKey "headers" (not (empty $otlp.existingSecret)) }}
{{- end }}
{{- if $otlp.tls.existingSecret }}
{{- range $variable, $key := dict "CERTIFICATE" $otlp.tls.caKey "CLIENT_CERTIFICATE" $otlp.tls.certKey "CLIENT_KEY" $otlp.tls.keyKey }}
{{- if $key }}
- name: OTEL_EXPORTER_OTLP_TRACES_{{ $variable }}
  value: /etc/wirespan/otlp/{{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Headers whose values are in files, as WIRESPAN_EXPORTER_HEADER_FILES has them: a list as JSON. */}}
{{- define "wirespan.headerFiles" -}}
{{- $files := list -}}
{{- range .Values.otlp.headerFiles -}}
{{- $path := printf "/etc/wirespan/otlp-headers/%s" (lower .name) -}}
{{- $files = append $files (printf "%s=%s" .name (trim (printf "%s %s" (default "" .scheme) $path))) -}}
{{- end -}}
{{- $files | toJson -}}
{{- end -}}

{{/* The files: one volume of all Secrets, mounted as a whole, for only so the kubelet renews what is in it. */}}
{{- define "wirespan.headerFilesVolume" -}}
- name: otlp-headers
  projected:
    defaultMode: 0440
    sources:
      {{- range .Values.otlp.headerFiles }}
      - secret: {name: {{ .secret }}, items: [{key: {{ .key | quote }}, path: {{ lower .name | quote }}}]}
      {{- end }}
{{- end -}}
