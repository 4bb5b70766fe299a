{{- /* A Deployment of proxies. Call with (dict "root" . "component" "proxy" "name" name "replicas" n "resources" block); without replicas an autoscaler sets them. */ -}}
{{- define "headgate.proxies" -}}
{{- $component := .component -}}
{{- $replicas := .replicas -}}
{{- $name := .name -}}
{{- $resources := .resources -}}
{{- with .root -}}
{{- $settings := include "headgate.settings" . -}}
{{- $own := include "headgate.fullname" . -}}
{{- /* The endpoints forget a pod within seconds of its end beginning; until then it still takes requests. */ -}}
{{- $forgetS := 5 -}}
{{- $marginS := 10 -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "headgate.labels" (list . $component) | nindent 4 }}
  {{- with .Values.deploymentAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with $replicas }}
  replicas: {{ . }}
  {{- end }}
  revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
  {{- with .Values.minReadySeconds }}
  minReadySeconds: {{ . }}
  {{- end }}
  {{- with .Values.progressDeadlineSeconds }}
  progressDeadlineSeconds: {{ . }}
  {{- end }}
  strategy:
    {{- toYaml .Values.strategy | nindent 4 }}
  selector:
    matchLabels:
      {{- include "headgate.selector" (list . $component) | nindent 6 }}
  template:
    metadata:
      {{- include "headgate.podMeta" (list . $component "settings" $settings) | nindent 6 }}
    spec:
      serviceAccountName: {{ include "headgate.accountName" (list $own .Values.serviceAccount) }}
      automountServiceAccountToken: false
      enableServiceLinks: {{ .Values.enableServiceLinks }}
      terminationGracePeriodSeconds: {{ add $forgetS .Values.drainSeconds $marginS }}
      securityContext:
        {{- toYaml .Values.podSecurityContext | nindent 8 }}
      {{- with include "headgate.placement" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with include "headgate.spread" (list . $component) | trim }}
      topologySpreadConstraints:
        {{- . | nindent 8 }}
      {{- end }}
      {{- with .Values.initContainers }}
      initContainers:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: proxy
          image: {{ include "headgate.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [headgate]
          args: [serve, --config, /etc/headgate/headgate.yaml, --workers, {{ .Values.workers | quote }}]
          {{- with include "headgate.environment" (list . $settings) | trim }}
          {{- . | nindent 10 }}
          {{- end }}
          ports:
            - {name: public, containerPort: 8080}
            - {name: admin, containerPort: 9464}
            {{- if .Values.settings.llm }}
            - {name: model, containerPort: 8090}
            {{- end }}
          lifecycle:
            {{- $waits := dict "preStop" (dict "sleep" (dict "seconds" $forgetS)) }}
            {{- toYaml (ternary .Values.lifecycle (merge $waits .Values.lifecycle) (hasKey .Values.lifecycle "preStop")) | nindent 12 }}
          # None of them asks the upstream, which may be silent because it works.
          startupProbe:
            httpGet: {path: /livez, port: admin}
            {{- toYaml .Values.startupProbe | nindent 12 }}
          livenessProbe:
            httpGet: {path: /livez, port: admin}
            {{- toYaml .Values.livenessProbe | nindent 12 }}
          readinessProbe:
            httpGet: {path: /readyz, port: admin}
            {{- toYaml .Values.readinessProbe | nindent 12 }}
          resources:
            {{- toYaml $resources | nindent 12 }}
          securityContext:
            {{- toYaml .Values.securityContext | nindent 12 }}
          volumeMounts:
            - {name: settings, mountPath: /etc/headgate/headgate.yaml, subPath: headgate.yaml, readOnly: true}
            {{- if .Values.flagFile }}
            # A folder, not a file: only so does a change reach a running pod.
            - {name: flags, mountPath: /etc/headgate/flags, readOnly: true}
            {{- end }}
            - {name: tmp, mountPath: /tmp}
            {{- include "headgate.caMount" . | nindent 12 }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        {{- with .Values.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        - name: settings
          configMap:
            name: {{ $own }}
        {{- if .Values.flagFile }}
        - name: flags
          configMap:
            name: {{ $own }}-flags
        {{- end }}
        # The local kill switch and the figures of the workers, be it one; nothing of a user.
        - name: tmp
          emptyDir:
            medium: Memory
            sizeLimit: 64Mi
        {{- include "headgate.caVolume" . | nindent 8 }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}
{{- end -}}

{{- /* How proxies are spread. Call with (list . component). */ -}}
{{- define "headgate.spread" -}}
{{- $ := index . 0 -}}
{{- $mine := dict "labelSelector" (dict "matchLabels" (include "headgate.selector" . | fromYaml)) -}}
{{- if kindIs "slice" $.Values.topologySpreadConstraints -}}
{{- range $.Values.topologySpreadConstraints }}
- {{ toYaml (ternary . (merge (deepCopy .) $mine) (hasKey . "labelSelector")) | nindent 2 | trim }}
{{- end }}
{{- else -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  {{- toYaml $mine | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* Which pods have the model port. */ -}}
{{- define "headgate.modelComponent" -}}
{{- ternary "model" "proxy" (and .Values.modelPort.ownDeployment (not (empty .Values.settings.llm))) -}}
{{- end -}}

{{- /* How many an eviction may take. Call with (list . component name). */ -}}
{{- define "headgate.budget" -}}
{{- $ := index . 0 -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 2 }}
  labels:
    {{- include "headgate.labels" (list $ (index . 1)) | nindent 4 }}
spec:
  {{- with $.Values.podDisruptionBudget }}
  {{- if kindIs "invalid" .minAvailable }}
  maxUnavailable: {{ .maxUnavailable }}
  {{- else }}
  minAvailable: {{ .minAvailable }}
  {{- end }}
  {{- end }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "headgate.selector" . | nindent 6 }}
{{- end -}}
