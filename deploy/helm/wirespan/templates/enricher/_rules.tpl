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

{{/* What belongs to no namespace: nodes, and namespaces where their labels or annotations are asked for. */}}
{{- define "wirespan.clusterResources" -}}
{{- $kube := .Values.settings.kube -}}
{{- $resources := list -}}
{{- if or (not .Values.rbac.namespaces) .Values.rbac.nodes -}}{{- $resources = append $resources "nodes" -}}{{- end -}}
{{- if or $kube.namespace_labels $kube.namespace_annotations -}}{{- $resources = append $resources "namespaces" -}}{{- end -}}
{{- toJson $resources -}}
{{- end -}}

{{- define "wirespan.subject" -}}
subjects:
  - {kind: ServiceAccount, name: {{ include "wirespan.serviceAccountName" . }}, namespace: {{ .root.Release.Namespace }}}
{{- end -}}
