{{/* Environment of the services. Nothing here has the value of a secret in it: those come by secretKeyRef or as files. */}}

{{/* A map of settings as variables: (dict "prefix" "WIRESPAN_LOG_" "settings" map). */}}
{{- define "wirespan.settingsEnv" -}}
{{- $prefix := .prefix -}}
{{- range $name, $value := .settings }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $prefix }}{{ upper $name }}
  value: {{ include "wirespan.asText" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "wirespan.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- printf "%s://%s.%s.svc:4222" (ternary "tls" "nats" .Values.nats.tls.enabled) (include "wirespan.componentName" (dict "root" . "component" "nats")) .Release.Namespace -}}
{{- else -}}
{{- required "nats.url: the NATS to use, or nats.enabled=true for one of the chart's own" .Values.nats.url -}}
{{- end -}}
{{- end -}}

{{/* The Secret of a user of NATS, and its key: (dict "root" $ "user" "capture"). */}}
{{- define "wirespan.natsSecretName" -}}
{{- $auth := index .root.Values.nats.auth .user -}}
{{- if $auth.existingSecret -}}
{{- $auth.existingSecret -}}
{{- else if or .root.Values.nats.enabled $auth.password -}}
{{- printf "%s-nats-%s" (include "wirespan.fullname" .root) .user -}}
{{- else -}}
{{- fail (printf "nats.auth.%s.existingSecret: the Secret with the %s of this user at %s (or nats.auth.method=none)" .user .root.Values.nats.auth.method .root.Values.nats.url) -}}
{{- end -}}
{{- end -}}

{{- define "wirespan.natsSecretKey" -}}
{{- default .root.Values.nats.auth.method (index .root.Values.nats.auth .user).existingSecretKey -}}
{{- end -}}

{{/* Whether nodes have users of their own: the Secret with their settings files, empty where they have not. */}}
{{- define "wirespan.nodesSecretName" -}}
{{- if .Values.nats.auth.nodesSecret -}}
{{- .Values.nats.auth.nodesSecret -}}
{{- else if and .Values.nats.enabled .Values.nats.auth.nodes -}}
{{- printf "%s-nats-nodes" (include "wirespan.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* How a service reaches NATS and who it is there: (dict "root" $ "user" "capture"). */}}
{{- define "wirespan.natsEnv" -}}
{{- $nats := .root.Values.nats -}}
{{- $perNode := and (eq .user "capture") (include "wirespan.nodesSecretName" .root) -}}
- name: WIRESPAN_NATS_URL
  value: {{ include "wirespan.natsUrl" .root | quote }}
- name: WIRESPAN_NATS_INBOX_PREFIX
  value: {{ printf "_INBOX_%s%s" .user (ternary ".$(NODE_NAME)" "" (not (empty $perNode))) | quote }}
{{- if $perNode }}
- name: WIRESPAN_CONFIG
  value: /etc/wirespan/nats/node.toml
{{- else if eq $nats.auth.method "password" }}
- name: WIRESPAN_NATS_USER
  value: {{ (index $nats.auth .user).user | quote }}
- name: WIRESPAN_NATS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "wirespan.natsSecretName" . }}, key: {{ include "wirespan.natsSecretKey" . }}}
{{- else if eq $nats.auth.method "token" }}
- name: WIRESPAN_NATS_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "wirespan.natsSecretName" . }}, key: {{ include "wirespan.natsSecretKey" . }}}
{{- else if ne $nats.auth.method "none" }}
- name: WIRESPAN_NATS_{{ upper $nats.auth.method }}_FILE
  value: /etc/wirespan/nats/{{ $nats.auth.method }}
{{- end }}
- name: WIRESPAN_NATS_UNSYNCED_SECONDS
  value: {{ $nats.syncInterval | trimSuffix "s" | int | mul 2 | quote }}
{{- with $nats.domain }}
- name: WIRESPAN_NATS_JETSTREAM_DOMAIN
  value: {{ . | quote }}
{{- end }}
{{- if $nats.tls.enabled }}
{{- if include "wirespan.natsAuthority" .root }}
- name: WIRESPAN_NATS_TLS_CA
  value: /etc/wirespan/nats-ca/ca.crt
{{- end }}
{{- if $nats.tls.clientSecret }}
- name: WIRESPAN_NATS_TLS_CERT
  value: /etc/wirespan/nats-client/tls.crt
- name: WIRESPAN_NATS_TLS_KEY
  value: /etc/wirespan/nats-client/tls.key
{{- end }}
{{- if $nats.tls.first }}
- name: WIRESPAN_NATS_TLS_FIRST
  value: "true"
{{- end }}
{{- end }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_NATS_" "settings" .root.Values.settings.nats) }}
{{- end -}}

{{/* Where the authority of NATS' certificate is kept, as the source of a volume; empty where the system's are trusted. */}}
{{- define "wirespan.natsAuthority" -}}
{{- $tls := .Values.nats.tls -}}
{{- $items := "items: [{key: ca.crt, path: ca.crt}]" -}}
{{- if $tls.caConfigMap -}}
configMap: {name: {{ $tls.caConfigMap }}, {{ $items }}}
{{- else if $tls.existingSecret -}}
secret: {secretName: {{ $tls.existingSecret }}, {{ $items }}}
{{- else if and .Values.nats.enabled $tls.issuerRef -}}
secret: {secretName: {{ include "wirespan.fullname" . }}-nats-server-tls, {{ $items }}}
{{- else if .Values.nats.enabled -}}
configMap: {name: {{ include "wirespan.fullname" . }}-nats-ca, {{ $items }}}
{{- end -}}
{{- end -}}

{{/* Volumes and mounts of what natsEnv names. */}}
{{- define "wirespan.natsVolumes" -}}
{{- $nats := .root.Values.nats -}}
{{- $nodes := ternary (include "wirespan.nodesSecretName" .root) "" (eq .user "capture") -}}
{{- if $nodes }}
- name: nats
  secret: {secretName: {{ $nodes }}, defaultMode: 0440}
{{- else if has $nats.auth.method (list "creds" "nkey") }}
- name: nats
  secret:
    secretName: {{ include "wirespan.natsSecretName" . }}
    defaultMode: 0440
    items: [{key: {{ include "wirespan.natsSecretKey" . }}, path: {{ $nats.auth.method }}}]
{{- end }}
{{- if $nats.tls.enabled }}
{{- with include "wirespan.natsAuthority" .root }}
- name: nats-ca
  {{- . | nindent 2 }}
{{- end }}
{{- with $nats.tls.clientSecret }}
- name: nats-client
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}

{{- define "wirespan.natsVolumeMounts" -}}
{{- $nats := .root.Values.nats -}}
{{- if and (eq .user "capture") (include "wirespan.nodesSecretName" .root) }}
- {name: nats, mountPath: /etc/wirespan/nats/node.toml, subPathExpr: $(NODE_NAME).toml, readOnly: true}
{{- else if has $nats.auth.method (list "creds" "nkey") }}
- {name: nats, mountPath: /etc/wirespan/nats, readOnly: true}
{{- end }}
{{- if $nats.tls.enabled }}
{{- if include "wirespan.natsAuthority" .root }}
- {name: nats-ca, mountPath: /etc/wirespan/nats-ca, readOnly: true}
{{- end }}
{{- if $nats.tls.clientSecret }}
- {name: nats-client, mountPath: /etc/wirespan/nats-client, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* What all three services have: (dict "root" $ "component" "enricher"). */}}
{{- define "wirespan.serviceEnv" -}}
{{- $values := .root.Values -}}
{{- $own := index $values .component -}}
{{- include "wirespan.natsEnv" (dict "root" .root "user" .component) }}
- name: WIRESPAN_HEALTH_HOST
  value: {{ $values.health.host | quote }}
- name: WIRESPAN_HEALTH_PORT
  value: {{ $values.health.port | quote }}
- name: WIRESPAN_{{ upper .component }}_DRAIN_SECONDS
  value: {{ $own.drainSeconds | quote }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_LOG_" "settings" $values.settings.log) }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_TELEMETRY_" "settings" $values.settings.telemetry) }}
{{- $streams := $values.settings.streams }}
{{- if $values.nats.enabled }}
{{- $streams = merge (dict) $streams (dict "replicas" $values.nats.replicas) }}
{{- end }}
{{- include "wirespan.settingsEnv" (dict "prefix" "WIRESPAN_STREAMS_" "settings" $streams) }}
{{- $settings := $own.settings }}
{{- if and (eq .component "capture") (ne $values.exporter.preset "everything") }}
{{- /* Sums are made within what a look of capture finds: fewer looks, fewer sums. `wirespan plan` counts with the same. */}}
{{- $settings = merge (dict) $settings (dict "drain_interval_seconds" 10) }}
{{- end }}
{{- if and (eq .component "exporter") $values.otlp.headerFiles }}
{{- $files := include "wirespan.headerFiles" .root | fromJsonArray }}
{{- $settings = merge (dict "header_files" (concat $files (default list $settings.header_files))) $settings }}
{{- end }}
{{- include "wirespan.settingsEnv" (dict "prefix" (printf "WIRESPAN_%s_" (upper .component)) "settings" $settings) }}
{{- end -}}

{{- define "wirespan.clusterEnv" -}}
{{- with .Values.cluster.name }}
- name: WIRESPAN_CLUSTER_NAME
  value: {{ . | quote }}
{{- end }}
{{- end -}}
