{{/* Parts of network policies. */}}

{{- define "wirespan.ports" -}}
{{- $ports := list }}{{- range . }}{{- $ports = append $ports (dict "port" (int .) "protocol" "TCP") }}{{- end -}}
ports: {{ toJson $ports }}
{{- end -}}

{{- define "wirespan.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "wirespan.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end -}}

{{/* From a URL, or host:port: its port. */}}
{{- define "wirespan.portOf" -}}
{{- $rest := regexReplaceAll "^[a-z+]+://" .url "" | regexFind "^[^/?,]+" -}}
{{- default (regexFind ":[0-9]+$" $rest | trimPrefix ":") (ternary "" (ternary "443" .default (hasPrefix "https://" .url)) (regexMatch ":[0-9]+$" $rest)) -}}
{{- end -}}
