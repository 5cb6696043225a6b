{{/* Enricher and exporter: (dict "root" $ "component" "enricher" "env" text "volumes" text "mounts" text "token" bool). */}}
{{- define "wirespan.deployment" -}}
{{- $own := index .root.Values .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  {{- if eq $own.autoscaling.type "none" }}
  replicas: {{ $own.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "wirespan.selectorLabels" . | nindent 6 }}
  strategy:
    {{- toYaml $own.updateStrategy | nindent 4 }}
  template:
    metadata:
      {{- include "wirespan.podMetadata" . | nindent 6 }}
    spec:
      serviceAccountName: {{ include "wirespan.serviceAccountName" . }}
      automountServiceAccountToken: {{ .token }}
      # A Service called wirespan-nats would otherwise become variables that look like settings.
      enableServiceLinks: false
      {{- with include "wirespan.pullSecrets" .root | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- include "wirespan.scheduling" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "wirespan.graceSeconds" . }}
      securityContext:
        {{- if $own.podSecurityContext }}
        {{- toYaml $own.podSecurityContext | nindent 8 }}
        {{- else }}
        {{- include "wirespan.restrictedPod" . | nindent 8 }}
        {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "wirespan.image" . | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          securityContext:
            {{- if $own.securityContext }}
            {{- toYaml $own.securityContext | nindent 12 }}
            {{- else }}
            {{- include "wirespan.restrictedContainer" . | nindent 12 }}
            {{- end }}
          env:
            {{- include "wirespan.serviceEnv" . | nindent 12 }}
            {{- with include "wirespan.clusterEnv" .root | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $own.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with $own.extraEnvFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- include "wirespan.probes" .root | nindent 10 }}
          resources:
            {{- toYaml $own.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- with include "wirespan.natsVolumeMounts" (dict "root" .root "user" .component) | trim }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with $own.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 64Mi}
        {{- with include "wirespan.natsVolumes" (dict "root" .root "user" .component) | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $own.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}

{{- define "wirespan.podDisruptionBudget" -}}
{{- $own := index .root.Values .component -}}
{{- if $own.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ $own.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "wirespan.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* On CPU, or on the batches that wait in the stream it reads: (dict ... "stream" "raw"). */}}
{{- define "wirespan.autoscaler" -}}
{{- $scaling := (index .root.Values .component).autoscaling -}}
{{- if eq $scaling.type "cpu" }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "wirespan.componentName" . }}}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ $scaling.targetCPUUtilization }}}
  {{- with $scaling.behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- else if eq $scaling.type "keda" }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "wirespan.metadata" . | nindent 2 }}
spec:
  scaleTargetRef: {name: {{ include "wirespan.componentName" . }}}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  {{- with $scaling.behavior }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- toYaml . | nindent 8 }}
  {{- end }}
  triggers:
    {{- /* The one that asks for the most decides, so each stream asks for as many as all together would if they were alike. */}}
    {{- $partitions := include "wirespan.partitions" .root | int }}
    {{- range $number := until $partitions }}
    - type: nats-jetstream
      metadata:
        natsServerMonitoringEndpoint: {{ include "wirespan.natsMonitoring" $.root | quote }}
        account: {{ $.root.Values.nats.account | quote }}
        stream: {{ index (include "wirespan.partitionNames" $number | fromYaml) $.stream }}
        consumer: {{ $.component }}
        lagThreshold: {{ max 1 (div $scaling.lagThreshold $partitions) | quote }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "wirespan.natsMonitoring" -}}
{{- if .Values.nats.enabled -}}
{{- printf "%s-headless.%s.svc:8222" (include "wirespan.componentName" (dict "root" . "component" "nats")) .Release.Namespace -}}
{{- else -}}
{{- required "nats.monitoringEndpoint: host and port that KEDA asks for the lag of the streams" .Values.nats.monitoringEndpoint -}}
{{- end -}}
{{- end -}}
