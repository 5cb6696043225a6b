{{/* Names and labels. Every helper that is about a component takes (dict "root" $ "component" "capture"). */}}

{{- define "wirespan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "wirespan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "wirespan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "wirespan.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wirespan.componentName" -}}
{{- printf "%s-%s" (include "wirespan.fullname" .root) .component -}}
{{- end -}}

{{/* What never changes between two versions of a release: selectors cannot. */}}
{{- define "wirespan.selectorLabels" -}}
app.kubernetes.io/name: {{ include "wirespan.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "wirespan.labels" -}}
{{ include "wirespan.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: wirespan
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object; "name", "namespace", "labels" and "annotations" may be given. */}}
{{- define "wirespan.metadata" -}}
name: {{ default (include "wirespan.componentName" .) .name }}
{{- if not .clusterScoped }}
namespace: {{ default .root.Release.Namespace .namespace }}
{{- end }}
labels:
  {{- include "wirespan.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "wirespan.serviceAccountName" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "wirespan.componentName" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* The image of a service: its own tag or the common one; a digest goes before both. */}}
{{- define "wirespan.image" -}}
{{- $image := (index .root.Values .component).image -}}
{{- $global := default (dict) .root.Values.global -}}
{{- $registry := default .root.Values.image.registry (default $image.registry $global.imageRegistry) -}}
{{- $repository := ternary $image.repository (printf "%s/%s" (trimSuffix "/" $registry) $image.repository) (empty $registry) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default (default .root.Chart.AppVersion .root.Values.image.tag) $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A value as an environment variable has it: whole numbers without exponent, lists separated by commas. */}}
{{- define "wirespan.asText" -}}
{{- if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}{{- $items = append $items (include "wirespan.asText" .) -}}{{- end -}}
{{- join "," $items -}}
{{- else if and (kindIs "float64" .) (eq (float64 .) (floor .)) -}}
{{- printf "%.0f" . -}}
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $name, $value := . -}}{{- $items = append $items (printf "%s=%s" $name (include "wirespan.asText" $value)) -}}{{- end -}}
{{- join "," $items -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Bytes of a quantity of Kubernetes (10Gi, 500M). */}}
{{- define "wirespan.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- $unit := trimPrefix $number (toString .) -}}
{{- if or (empty $number) (not (hasKey $units $unit)) -}}
{{- fail (printf "%v is no quantity such as 10Gi" .) -}}
{{- end -}}
{{- printf "%.0f" (mulf (float64 $number) (index $units $unit)) -}}
{{- end -}}

{{/* The services that this release runs, as JSON. */}}
{{- define "wirespan.services" -}}
{{- $services := list -}}
{{- range list "capture" "enricher" "exporter" -}}
{{- if (index $.Values .).enabled -}}{{- $services = append $services . -}}{{- end -}}
{{- end -}}
{{- toJson $services -}}
{{- end -}}
