{{/*
Who may do what on the bus. The API of JetStream is subjects too, so each service has exactly those that it uses
(services/runtime/nats/jetstream.py, consuming.py, standing.py); tests/e2e/kubernetes/test_helm_nats.py runs the services under these and tries what they may not.
The server maps the API of a domain to $JS.API before it looks at permissions.
*/}}
{{- define "wirespan.natsPermissions" -}}
{{- $api := "$JS.API" -}}
{{- $streams := list -}}
{{- $publish := list -}}
{{- $enricher := list -}}
{{- $exporter := list "flows.dead.exporter" -}}
{{- $consuming := list -}}
{{- range $number := until (include "wirespan.partitions" . | int) -}}
{{- $of := include "wirespan.partitionNames" $number | fromYaml -}}
{{- $streams = concat $streams (list $of.raw $of.enriched) -}}
{{- $publish = append $publish (printf "%s.raw.*" $of.flows) -}}
{{- $enricher = append $enricher (printf "%s.enriched.*" $of.flows) -}}
{{- $consuming = concat $consuming (include "wirespan.natsConsuming" (dict "api" $api "stream" $of.raw "durable" "enricher") | fromYamlArray) -}}
{{- $exporter = concat $exporter (include "wirespan.natsConsuming" (dict "api" $api "stream" $of.enriched "durable" "exporter") | fromYamlArray) -}}
{{- $enricher = concat $enricher (list (printf "%s.CONSUMER.DELETE.%s.enricher" $api $of.raw) (printf "%s.CONSUMER.INFO.%s.exporter" $api $of.enriched) (printf "%s.CONSUMER.DELETE.%s.exporter" $api $of.enriched)) -}}
{{- end -}}
{{- $streams = concat $streams (list "FLOWS_DEAD" "FLOWS_RECENT" "KUBE_CACHE") -}}
{{- $enricher = concat $enricher (list "flows.dead.enricher" "kube.cache.*" (printf "%s.STREAM.MSG.GET.KUBE_CACHE" $api) (printf "%s.STREAM.PURGE.KUBE_CACHE" $api)) -}}
{{- $capture := list "_INBOX_capture.>" -}}
{{- if .Values.correlation.intake.enabled -}}
{{- $enricher = append $enricher "spans.asked.*" -}}
{{- $capture = append $capture "spans.asked.*" -}}
{{- end -}}
{{- range $stream := $streams -}}
{{- range list "CREATE" "UPDATE" "INFO" -}}
{{- $enricher = append $enricher (printf "%s.STREAM.%s.%s" $api . $stream) -}}
{{- end -}}
{{- end -}}
{{- $enricher = concat $enricher $consuming -}}
{{- $reader := list (printf "%s.INFO" $api) -}}
{{- range list "STREAM.LIST" "STREAM.NAMES" "STREAM.INFO.*" "CONSUMER.LIST.*" "CONSUMER.NAMES.*" "CONSUMER.INFO.*.*" "DIRECT.GET.>" "STREAM.MSG.GET.*" -}}
{{- $reader = append $reader (printf "%s.%s" $api .) -}}
{{- end -}}
{{- $operator := concat $reader (list "flows.raw.*" "flows.enriched.*" (printf "%s.STREAM.MSG.DELETE.FLOWS_DEAD" $api)) -}}
capture: {publish: {{ toRawJson $publish }}, subscribe: {{ toRawJson $capture }}}
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

{{/* How many streams FLOWS_RAW and FLOWS_ENRICHED each are, and the names of those with a number (proto/subjects.py). */}}
{{- define "wirespan.partitions" -}}
{{- $streams := .Values.settings.streams -}}
{{- max 1 (int (default 1 $streams.partitions)) (int (default 0 $streams.partitions_consumed)) -}}
{{- end -}}

{{- define "wirespan.partitionNames" -}}
{{- $number := int . -}}
raw: FLOWS_RAW{{ if $number }}_{{ $number }}{{ end }}
enriched: FLOWS_ENRICHED{{ if $number }}_{{ $number }}{{ end }}
flows: flows{{ if $number }}.{{ $number }}{{ end }}
{{- end -}}

{{/* Everybody may ask what he himself may do (`wirespan doctor`). */}}
{{- define "wirespan.natsUser" -}}
{ user: {{ .name | quote }}, password: {{ .password }}, permissions { publish: {{ append .may.publish "$SYS.REQ.USER.INFO" | toRawJson }}, subscribe: {{ .may.subscribe | toRawJson }} } }
{{- end -}}

{{/*
A server checks where a user publishes, not where he has the answer sent: JetStream's word that a message is stored would be a
message on any subject of the account, that of a stream too. So streams and enricher have an account of their own, and every
other user has one, a node's too, which imports what he may publish: answers reach nothing but that account.
*/}}
{{- define "wirespan.natsExports" -}}
{{- $subjects := list -}}
{{- range $user := list "capture" "exporter" "reader" "operator" -}}
{{- $subjects = concat $subjects (index $ $user).publish -}}
{{- end -}}
{{- range uniq $subjects }}
{ service: {{ . | quote }}{{ if contains ".MSG.NEXT." . }}, response_type: stream{{ end }} }
{{- end }}
{ stream: "flows.>" }
{{- if has "spans.asked.*" .capture.subscribe }}
{ stream: "spans.asked.*" }
{{- end }}
{{- end -}}

{{/*
The users of an account, and its imports (dict "root" $ "name" user "password" word "may" permissions). A server answers $JS.API
itself, as of the account that asks: what may be asked is mapped to an import, and a mapped subject is what permissions are about.
*/}}
{{- define "wirespan.natsImporter" -}}
{{- $nats := .root.Values.nats -}}
{{- $api := ternary "$JS.API." (printf "$JS.%s.API." $nats.domain) (empty $nats.domain) -}}
{{- $publish := list -}}
{{- $mappings := list -}}
{{- $imports := list -}}
{{- range .may.publish -}}
{{- $local := . -}}
{{- if hasPrefix "$JS.API." . -}}
{{- $operation := trimPrefix "$JS.API." . -}}
{{- $local = printf "$JS.imported.API.%s" $operation -}}
{{- $to := $local | replace "*.*" "$1.$2" | replace "*" "$1" -}}
{{- $mappings = append $mappings (printf "%s: %s" (printf "%s%s" $api $operation | quote) (quote $to)) -}}
{{- end -}}
{{- $publish = append $publish $local -}}
{{- $imports = append $imports (printf "{ service: { account: %s, subject: %s }, to: %s }" $nats.account (quote .) (quote $local)) -}}
{{- end -}}
{{- range .may.subscribe -}}
{{- if or (eq . "flows.>") (hasPrefix "spans.asked." .) -}}
{{- $imports = append $imports (printf "{ stream: { account: %s, subject: %s } }" $nats.account (quote .)) -}}
{{- end -}}
{{- end -}}
users: [ {{ include "wirespan.natsUser" (dict "name" .name "password" .password "may" (dict "publish" $publish "subscribe" .may.subscribe)) }} ]
{{- if $mappings }}
mappings: {
  {{- range $mappings }}
  {{ . }}
  {{- end }}
}
{{- end }}
imports: [
  {{- range $imports }}
  {{ . }}
  {{- end }}
]
{{- end -}}

{{/* As proto/subjects.py makes a token of a node's name. */}}
{{- define "wirespan.subjectToken" -}}
{{- regexReplaceAll "[^A-Za-z0-9_=-]+" . "-" -}}
{{- end -}}
