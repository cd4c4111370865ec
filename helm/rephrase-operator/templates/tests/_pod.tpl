{{/* A pod of `helm test`; takes root, name, weight, url, wanted, seconds. */}}
{{- define "rephrase-operator.testPod" -}}
{{- $root := .root }}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "rephrase-operator.fullname" $root }}-test-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "rephrase-operator.testLabels" $root | nindent 4 }}
    {{- include "rephrase-operator.commonLabels" $root | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: Never
  automountServiceAccountToken: false   # it asks the operator, never the API server
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: test
      image: {{ include "rephrase-operator.image" (list $root.Values.images.operator $root) | quote }}
      imagePullPolicy: {{ $root.Values.imagePullPolicy }}
      # until what is asked for stands in the answer
      command:
        - python
        - -c
        - |
          import sys, time, urllib.request
          url, wanted, end = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])
          ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
          while True:
              try:
                  said = ask(url, timeout=5).read().decode()
                  if wanted in said:
                      sys.exit(0)
              except OSError as error:
                  said = str(error)
              if time.monotonic() > end:
                  sys.exit(f"{url} does not say {wanted}; its last answer: {said[-1000:]}")
              time.sleep(1)
        - {{ .url | quote }}
        - {{ .wanted | quote }}
        - {{ .seconds | quote }}
      resources:
        requests:
          cpu: 10m
          memory: 32Mi
        limits:
          memory: 128Mi
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      terminationMessagePolicy: FallbackToLogsOnError
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
