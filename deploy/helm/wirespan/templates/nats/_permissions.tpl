{{/*
Who may do what on the bus. The API of JetStream is subjects too, so each service has exactly those that it uses
(services/runtime/nats/jetstream.py, consuming.py); tests/e2e/kubernetes/test_helm_nats.py runs the services under these and tries what they may not.
*/}}
{{- define "wirespan.natsPermissions" -}}
{{- $api := ternary "$JS.API" (printf "$JS.%s.API" .Values.nats.domain) (empty .Values.nats.domain) -}}
{{- $streams := list "FLOWS_RAW" "FLOWS_ENRICHED" "FLOWS_DEAD" "FLOWS_RECENT" "KUBE_CACHE" -}}
{{- $enricher := list "flows.enriched.*" "flows.dead.enricher" "kube.cache.*" (printf "%s.DIRECT.GET.KUBE_CACHE" $api) (printf "%s.STREAM.PURGE.KUBE_CACHE" $api) -}}
{{- range $stream := $streams -}}
{{- range list "CREATE" "UPDATE" "INFO" -}}
{{- $enricher = append $enricher (printf "%s.STREAM.%s.%s" $api . $stream) -}}
{{- end -}}
{{- end -}}
{{- $enricher = concat $enricher (include "wirespan.natsConsuming" (dict "api" $api "stream" "FLOWS_RAW" "durable" "enricher") | fromYamlArray) -}}
{{- $exporter := list "flows.dead.exporter" -}}
{{- $exporter = concat $exporter (include "wirespan.natsConsuming" (dict "api" $api "stream" "FLOWS_ENRICHED" "durable" "exporter") | fromYamlArray) -}}
{{- $reader := list (printf "%s.INFO" $api) -}}
{{- range list "STREAM.LIST" "STREAM.NAMES" "STREAM.INFO.*" "CONSUMER.LIST.*" "CONSUMER.NAMES.*" "CONSUMER.INFO.*.*" "DIRECT.GET.>" "STREAM.MSG.GET.*" -}}
{{- $reader = append $reader (printf "%s.%s" $api .) -}}
{{- end -}}
{{- $operator := concat $reader (list "flows.raw.*" "flows.enriched.*" (printf "%s.STREAM.MSG.DELETE.FLOWS_DEAD" $api)) -}}
capture: {publish: ["flows.raw.*"], subscribe: ["_INBOX_capture.>"]}
enricher: {publish: {{ toRawJson $enricher }}, subscribe: ["_INBOX_enricher.>", "kube.bell.>"]}
exporter: {publish: {{ toRawJson $exporter }}, subscribe: ["_INBOX_exporter.>"]}
reader: {publish: {{ toRawJson $reader }}, subscribe: ["_INBOX_reader.>", "flows.>"]}
operator: {publish: {{ toRawJson $operator }}, subscribe: ["_INBOX_operator.>", "flows.>"]}
{{- end -}}

{{- define "wirespan.natsConsuming" -}}
- {{ .api }}.CONSUMER.CREATE.{{ .stream }}.{{ .durable }}
- {{ .api }}.CONSUMER.INFO.{{ .stream }}.{{ .durable }}
- {{ .api }}.CONSUMER.MSG.NEXT.{{ .stream }}.{{ .durable }}
- $JS.ACK.{{ .stream }}.{{ .durable }}.>
# As servers write it that put domain and account in front (NATS ADR-15).
- $JS.ACK.*.*.{{ .stream }}.{{ .durable }}.>
{{- end -}}

{{/* As proto/subjects.py makes a token of a node's name. */}}
{{- define "wirespan.subjectToken" -}}
{{- regexReplaceAll "[^A-Za-z0-9_=-]+" . "-" -}}
{{- end -}}
