{{/* nats.conf: (dict "root" $ "nodesKey" text). Passwords of services come from the environment, those of nodes from the key. */}}
{{- define "wirespan.natsConfig" -}}
{{- $nats := .root.Values.nats -}}
{{- $nodesKey := .nodesKey -}}
{{- $root := .root -}}
{{- $permissions := include "wirespan.natsPermissions" .root | fromYaml -}}
server_name: $SERVER_NAME
listen: "0.0.0.0:4222"
http: "0.0.0.0:8222"
pid_file: "/run/nats/nats.pid"
lame_duck_grace_period: "5s"
lame_duck_duration: "30s"

jetstream {
  store_dir: "/data"
  max_file_store: {{ include "wirespan.natsFileStore" .root }}
  max_memory_store: {{ include "wirespan.natsMemoryStore" .root }}
  sync_interval: {{ $nats.syncInterval }}
  {{- with $nats.domain }}
  domain: {{ . | quote }}
  {{- end }}
}
{{- if $nats.tls.enabled }}

tls {
  {{- include "wirespan.natsTlsFiles" . | nindent 2 }}
  {{- if $nats.tls.clientSecret }}
  ca_file: "/etc/nats/tls/ca.crt"
  verify: true
  {{- end }}
  {{- if $nats.tls.first }}
  handshake_first: true
  {{- end }}
}
{{- end }}
{{- if gt (int $nats.replicas) 1 }}

cluster {
  name: {{ include "wirespan.componentName" (dict "root" .root "component" "nats") | quote }}
  listen: "0.0.0.0:6222"
  authorization { user: {{ $nats.auth.route.user | quote }}, password: $ROUTE_PASSWORD }
  routes: [
    {{- range $number := until (int $nats.replicas) }}
    $ROUTE_{{ $number }}
    {{- end }}
  ]
  {{- if $nats.tls.enabled }}
  tls {
    {{- include "wirespan.natsTlsFiles" . | nindent 4 }}
    ca_file: "/etc/nats/tls/ca.crt"
    verify: true
  }
  {{- end }}
}
{{- end }}

system_account: SYS
accounts {
  {{ $nats.account }} {
    jetstream: enabled
    users: [ {{ include "wirespan.natsUser" (dict "name" $nats.auth.enricher.user "password" "$ENRICHER_PASSWORD" "may" $permissions.enricher) }} ]
    exports: [
      {{- include "wirespan.natsExports" $permissions | trim | nindent 6 }}
    ]
  }
  {{- range $user := list "capture" "exporter" "reader" "operator" }}
  {{- if not (and (eq $user "capture") $nats.auth.nodes) }}
  {{ $nats.account }}_{{ upper $user }} {
    {{- include "wirespan.natsImporter" (dict "root" $root "name" (index $nats.auth $user).user "password" (printf "$%s_PASSWORD" (upper $user)) "may" (index $permissions $user)) | nindent 4 }}
  }
  {{- end }}
  {{- end }}
  {{- range $node := $nats.auth.nodes }}
  {{- $token := include "wirespan.subjectToken" $node }}
  {{- $hears := list (printf "_INBOX_capture.%s.>" $node) }}
  {{- if $root.Values.correlation.intake.enabled }}{{ $hears = append $hears (printf "spans.asked.%s" $token) }}{{ end }}
  {{- $publish := list }}
  {{- range $permissions.capture.publish }}{{ $publish = append $publish (. | replace "*" $token) }}{{ end }}
  {{- $may := dict "publish" $publish "subscribe" $hears }}
  {{ printf "%s_NODE_%s" $nats.account $node | quote }} {
    {{- include "wirespan.natsImporter" (dict "root" $root "name" $node "password" (include "wirespan.nodePassword" (dict "key" $nodesKey "node" $node) | quote) "may" $may) | nindent 4 }}
  }
  {{- end }}
  SYS { users: [ { user: {{ $nats.auth.system.user | quote }}, password: $SYSTEM_PASSWORD } ] }
}
{{- with $nats.extraConfig }}

{{ tpl . $.root }}
{{- end }}
{{- end -}}

{{- define "wirespan.natsTlsFiles" -}}
cert_file: "/etc/nats/tls/tls.crt"
key_file: "/etc/nats/tls/tls.key"
{{- end -}}

{{- define "wirespan.nodePassword" -}}
{{- printf "%s/%s" .key .node | sha256sum -}}
{{- end -}}

{{/* Nine tenths of the volume: the file system needs some, and a full one stops the server instead of the streams. */}}
{{- define "wirespan.natsFileStore" -}}
{{- printf "%.0f" (mulf (include "wirespan.bytes" .Values.nats.persistence.size | float64) 0.9) -}}
{{- end -}}

{{/* What the streams may hold together. */}}
{{- define "wirespan.streamBytes" -}}
{{- $streams := .Values.settings.streams -}}
{{- $queues := mulf (include "wirespan.partitions" . | float64) (addf (default 1073741824 $streams.raw_bytes) (default 1073741824 $streams.enriched_bytes)) -}}
{{- printf "%.0f" (addf $queues (default 268435456 $streams.dead_bytes) (default 268435456 $streams.cache_bytes)) -}}
{{- end -}}

{{/* FLOWS_RECENT is always kept in memory, the others where the values say so. */}}
{{- define "wirespan.natsMemoryStore" -}}
{{- $streams := .Values.settings.streams -}}
{{- $recent := ternary $streams.recent_bytes 33554432 (hasKey $streams "recent_bytes") -}}
{{- printf "%.0f" (addf $recent (ternary (include "wirespan.streamBytes" . | float64) 0.0 (eq (default "file" $streams.storage) "memory"))) -}}
{{- end -}}

{{- define "wirespan.checkNats" -}}
{{- $nats := .Values.nats -}}
{{- if $nats.url -}}
{{- fail "nats.url: names a NATS of your own, so nats.enabled must be false" -}}
{{- end -}}
{{- $tokens := dict -}}
{{- range $node := $nats.auth.nodes -}}
{{- $token := include "wirespan.subjectToken" $node -}}
{{- if hasKey $tokens $token -}}
{{- fail (printf "nats.auth.nodes: %s and %s have one subject, flows.raw.%s: each could speak for the other" (index $tokens $token) $node $token) -}}
{{- end -}}
{{- $_ := set $tokens $token $node -}}
{{- end -}}
{{- if ne $nats.auth.method "password" -}}
{{- fail (printf "nats.auth.method=%s: the NATS of the chart knows its users by password" $nats.auth.method) -}}
{{- end -}}
{{- if and (ne (default "file" .Values.settings.streams.storage) "memory") (gt (include "wirespan.streamBytes" . | float64) (include "wirespan.natsFileStore" . | float64)) -}}
{{- fail (printf "nats.persistence.size=%s: nine tenths of it are less than the %s bytes that the streams may hold (settings.streams)" $nats.persistence.size (include "wirespan.streamBytes" .)) -}}
{{- end -}}
{{- if gt (int (default $nats.replicas .Values.settings.streams.replicas)) (int $nats.replicas) -}}
{{- fail (printf "settings.streams.replicas=%v: there are only %v servers (nats.replicas)" .Values.settings.streams.replicas $nats.replicas) -}}
{{- end -}}
{{- end -}}
