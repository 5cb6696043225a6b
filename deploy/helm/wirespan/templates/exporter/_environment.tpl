{{/* Environment of the exporter alone: the backend. */}}
{{- define "wirespan.exporterEnv" -}}
- name: WIRESPAN_EXPORTER_PRESET
  value: {{ .Values.exporter.preset | quote }}
{{- $endpoint := .Values.otlp.endpoint }}
{{- if not .Values.exporter.settings.output_file }}
{{- $endpoint = required "otlp.endpoint: where spans go, for instance http://tempo.observability:4317" $endpoint }}
{{- end }}
{{ include "wirespan.otlpEnv" (dict "root" . "signal" "TRACES" "endpoint" (ternary "" $endpoint (not (empty .Values.exporter.settings.output_file)))) }}
{{- if include "wirespan.metricsEndpoint" . }}
{{ include "wirespan.otlpEnv" (dict "root" . "signal" "METRICS" "endpoint" (include "wirespan.metricsEndpoint" .)) }}
{{- end }}
{{- end -}}

{{/* Where metrics of flows go over OTLP; nothing where they do not. */}}
{{- define "wirespan.metricsEndpoint" -}}
{{- if has "otlp" (default (list) .Values.exporter.settings.flow_metrics) -}}
{{- if .Values.otlp.metricsEndpoint -}}
{{- .Values.otlp.metricsEndpoint -}}
{{- else if eq .Values.otlp.protocol "grpc" -}}
{{- required "otlp.metricsEndpoint: where metrics of flows go" .Values.otlp.endpoint -}}
{{- else -}}
{{- fail "otlp.metricsEndpoint: where metrics of flows go over HTTP, for instance http://collector.observability:4318/v1/metrics" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The standard variables of one signal: (dict "root" $ "signal" "TRACES" "endpoint" "http://tempo:4317"). */}}
{{- define "wirespan.otlpEnv" -}}
{{- $otlp := .root.Values.otlp -}}
{{- $prefix := printf "OTEL_EXPORTER_OTLP_%s" .signal -}}
- name: {{ $prefix }}_PROTOCOL
  value: {{ $otlp.protocol | quote }}
{{- with .endpoint }}
- name: {{ $prefix }}_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: {{ $prefix }}_COMPRESSION
  value: {{ $otlp.compression | quote }}
- name: {{ $prefix }}_TIMEOUT
  value: {{ include "wirespan.asText" $otlp.timeoutMilliseconds | quote }}
{{- if $otlp.insecure }}
- name: {{ $prefix }}_INSECURE
  value: "true"
{{- end }}
{{- if or $otlp.headers $otlp.existingSecret }}
- name: {{ $prefix }}_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-otlp" (include "wirespan.fullname" .root)) $otlp.existingSecret }}
      key: {{ ternary $otlp.existingSecretKey "headers" (not (empty $otlp.existingSecret)) }}
{{- end }}
{{- if $otlp.tls.existingSecret }}
{{- range $variable, $key := dict "CERTIFICATE" $otlp.tls.caKey "CLIENT_CERTIFICATE" $otlp.tls.certKey "CLIENT_KEY" $otlp.tls.keyKey }}
{{- if $key }}
- name: {{ $prefix }}_{{ $variable }}
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
