{{/* The container of NATS. */}}

{{- define "wirespan.natsImage" -}}
{{- $image := .Values.nats.image -}}
{{- $global := default (dict) .Values.global -}}
{{- $registry := default $image.registry $global.imageRegistry -}}
{{- $repository := ternary $image.repository (printf "%s/%s" (trimSuffix "/" $registry) $image.repository) (empty $registry) -}}
{{- ternary (printf "%s:%s" $repository $image.tag) (printf "%s@%s" $repository $image.digest) (empty $image.digest) -}}
{{- end -}}

{{/* The server reads a variable as it reads its file, so a password is put in quotes; it may be any that has none in it. */}}
{{- define "wirespan.natsServerEnv" -}}
{{- $root := .root -}}
{{- $nats := .root.Values.nats -}}
{{- $name := include "wirespan.componentName" . -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: SERVER_NAME
  value: '"$(POD_NAME)"'
{{- with dig "limits" "memory" "" $nats.resources }}
- name: GOMEMLIMIT
  value: {{ printf "%.0fB" (mulf (include "wirespan.bytes" . | float64) 0.9) | quote }}
{{- end }}
{{- $users := ternary (list "enricher" "exporter" "reader" "operator" "system") (list "capture" "enricher" "exporter" "reader" "operator" "system") (not (empty $nats.auth.nodes)) }}
{{- range $user := ternary (append $users "route") $users (gt (int $nats.replicas) 1) }}
- name: {{ upper $user }}_PASSWORD_TEXT
  valueFrom:
    secretKeyRef: {name: {{ include "wirespan.natsSecretName" (dict "root" $root "user" $user) }}, key: {{ include "wirespan.natsSecretKey" (dict "root" $root "user" $user) }}}
- name: {{ upper $user }}_PASSWORD
  value: {{ printf "\"$(%s_PASSWORD_TEXT)\"" (upper $user) | squote }}
{{- end }}
{{- if gt (int $nats.replicas) 1 }}
{{- range $number := until (int $nats.replicas) }}
- name: ROUTE_{{ $number }}
  value: {{ printf "\"nats-route://%s:$(ROUTE_PASSWORD_TEXT)@%s-%d.%s-headless.%s.svc:6222\"" $nats.auth.route.user $name $number $name $root.Release.Namespace | squote }}
{{- end }}
{{- end }}
{{- end -}}
