{{/* What the enricher reads, and who it is. */}}
{{- define "wirespan.namespacedRules" -}}
- {apiGroups: [""], resources: [pods, services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
# Of the owners of pods only the metadata is asked for.
- {apiGroups: [apps], resources: [replicasets, deployments, statefulsets, daemonsets], verbs: [list, watch]}
- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [list, watch]}
{{- if .Values.settings.kube.network_policies }}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
{{- end }}
{{- end -}}

{{- define "wirespan.subject" -}}
subjects:
  - {kind: ServiceAccount, name: {{ include "wirespan.serviceAccountName" . }}, namespace: {{ .root.Release.Namespace }}}
{{- end -}}
