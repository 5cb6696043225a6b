{{/* Parts of pods: (dict "root" $ "component" "enricher"). */}}

{{- define "wirespan.podMetadata" -}}
{{- $own := index .root.Values .component -}}
labels:
  {{- include "wirespan.labels" . | nindent 2 }}
  {{- with $own.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .component }}
  {{- with .checksum }}
  checksum/config: {{ . }}
  {{- end }}
  {{- with merge (dict) (default (dict) $own.podAnnotations) .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "wirespan.pullSecrets" -}}
{{- $global := default (dict) .Values.global -}}
{{- with concat (default (list) $global.imagePullSecrets) .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Where a pod may run. Replicas prefer other hosts and zones unless the values say otherwise. */}}
{{- define "wirespan.scheduling" -}}
{{- $own := index .root.Values .component -}}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $own.affinity }}
affinity:
  {{- toYaml $own.affinity | nindent 2 }}
{{- else if and (eq .component "nats") (gt (int $own.replicas) 1) }}
{{- /* Two servers on a host are lost together, and with two of three the streams: rather one server less than that. */}}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "wirespan.selectorLabels" . | nindent 12 }}
{{- else if ne .component "capture" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "wirespan.selectorLabels" . | nindent 14 }}
{{- end }}
{{- if ne .component "capture" }}
topologySpreadConstraints:
  {{- if $own.topologySpreadConstraints }}
  {{- toYaml $own.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "wirespan.selectorLabels" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
dnsPolicy: {{ $own.dnsPolicy }}
{{- end -}}

{{- define "wirespan.probes" -}}
ports:
  - {name: health, containerPort: {{ .Values.health.port }}, protocol: TCP}
startupProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}

{{/* Enricher, exporter, toolbox and tests: no root, no privilege, nothing to write to but /tmp. */}}
{{- define "wirespan.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "wirespan.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* After a stop signal a service drains, gives up its tasks (5 s) and sends its last metrics. */}}
{{- define "wirespan.graceSeconds" -}}
{{- add (ceil (index .root.Values .component).drainSeconds) 10 -}}
{{- end -}}

{{- define "wirespan.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "wirespan.metadata" (merge (dict "name" (include "wirespan.serviceAccountName" .) "annotations" $account.annotations) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}

{{/* The service that /healthz, /readyz and /metrics are reached by. Its name resolves to pods that are ready. */}}
{{- define "wirespan.healthService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "wirespan.selectorLabels" . | nindent 4 }}
  ports:
    - {name: health, port: {{ .root.Values.health.port }}, targetPort: health, protocol: TCP}
{{- end -}}
