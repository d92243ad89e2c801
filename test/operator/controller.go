package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

const finalizer = group + "/ledger"

// control makes Sites what they say until ctx ends.
func (o *operator) control(ctx context.Context) {
	log.Printf("%s leads, version %s", o.name, o.version)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.NamespacedName]())
	defer context.AfterFunc(ctx, queue.ShutDown)()
	add := func(obj any) {
		if m, ok := obj.(metav1.Object); ok {
			queue.Add(types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()})
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }, DeleteFunc: add}
	own := dynamicinformer.NewDynamicSharedInformerFactory(o.objects, 0)
	others := informers.NewSharedInformerFactory(o.clients, 0)
	_, _ = own.ForResource(sites).Informer().AddEventHandler(handler)
	_, _ = others.Apps().V1().Deployments().Informer().AddEventHandler(handler) // a Site's is named as the Site
	own.Start(ctx.Done())
	others.Start(ctx.Done())
	own.WaitForCacheSync(ctx.Done())
	others.WaitForCacheSync(ctx.Done())
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: o.clients.CoreV1().Events("")})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "site-operator"})
	for {
		key, quit := queue.Get()
		if quit {
			return
		}
		if err := o.reconcile(ctx, recorder, key); err != nil && ctx.Err() == nil {
			log.Printf("%s: %v", key, err)
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

func (o *operator) reconcile(ctx context.Context, recorder record.EventRecorder, key types.NamespacedName) error {
	site, err := o.objects.Resource(sites).Namespace(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if site.GetDeletionTimestamp() != nil {
		return o.strike(ctx, site)
	}
	if !slices.Contains(site.GetFinalizers(), finalizer) {
		site.SetFinalizers(append(site.GetFinalizers(), finalizer))
		if site, err = o.objects.Resource(sites).Namespace(key.Namespace).Update(ctx, site, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	d, made, err := o.ensure(ctx, site)
	if err != nil {
		return err
	}
	if made {
		recorder.Eventf(site, corev1.EventTypeNormal, "Made", "Deployment %s made by %s", d.Name, o.name)
	}
	status := map[string]any{"ready": int64(d.Status.ReadyReplicas), "observedGeneration": site.GetGeneration(), "by": o.version}
	if before, _, _ := unstructured.NestedMap(site.Object, "status"); equality.Semantic.DeepEqual(before, status) {
		return nil
	}
	site.Object["status"] = status
	_, err = o.objects.Resource(sites).Namespace(key.Namespace).UpdateStatus(ctx, site, metav1.UpdateOptions{})
	return err
}

// ensure applies what a Site consists of; everything belongs to it, so it goes with it.
func (o *operator) ensure(ctx context.Context, site *unstructured.Unstructured) (d *appsv1.Deployment, made bool, err error) {
	text, _, _ := unstructured.NestedString(site.Object, "spec", "text")
	replicas, _, _ := unstructured.NestedInt64(site.Object, "spec", "replicas")
	labels := map[string]string{"site": site.GetName()}
	meta := metav1.ObjectMeta{Namespace: site.GetNamespace(), Name: site.GetName(), Labels: labels, OwnerReferences: []metav1.OwnerReference{
		*metav1.NewControllerRef(site, sites.GroupVersion().WithKind("Site"))}}
	deployments := o.clients.AppsV1().Deployments(meta.Namespace)
	_, err = deployments.Get(ctx, meta.Name, metav1.GetOptions{})
	made = apierrors.IsNotFound(err)
	apply := func(kind string, obj any, patch func(b []byte) error) {
		if err != nil && !made {
			return
		}
		b, failed := json.Marshal(obj)
		if failed == nil {
			failed = patch(b)
		}
		if failed != nil {
			err = fmt.Errorf("apply %s: %w", kind, failed)
		}
	}
	if err != nil && !made {
		return nil, false, err
	}
	err = nil
	options := metav1.PatchOptions{FieldManager: "site-operator", Force: new(true)}
	apply("ConfigMap", &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta, Data: map[string]string{"index.html": text}}, func(b []byte) error {
		_, err := o.clients.CoreV1().ConfigMaps(meta.Namespace).Patch(ctx, meta.Name, types.ApplyPatchType, b, options)
		return err
	})
	apply("Service", &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: labels,
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, func(b []byte) error {
		_, err := o.clients.CoreV1().Services(meta.Namespace).Patch(ctx, meta.Name, types.ApplyPatchType, b, options)
		return err
	})
	apply("Deployment", deployment(meta, int32(replicas)), func(b []byte) error {
		d, err = deployments.Patch(ctx, meta.Name, types.ApplyPatchType, b, options)
		return err
	})
	return d, made, err
}

func deployment(meta metav1.ObjectMeta, replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: meta.Labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(1)),
				Containers: []corev1.Container{{Name: "web", Image: "gondola.local/hello", VolumeMounts: []corev1.VolumeMount{{Name: "content", MountPath: "/content"}},
					ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}}},
				Volumes: []corev1.Volume{{Name: "content", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name}}}}}}}}}
}

// strike writes a Site that goes into the ledger, and lets it go.
func (o *operator) strike(ctx context.Context, site *unstructured.Unstructured) error {
	if !slices.Contains(site.GetFinalizers(), finalizer) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]string{site.GetName(): "gone at " + time.Now().UTC().Format(time.RFC3339)}})
	if err != nil {
		return err
	}
	if _, err := o.clients.CoreV1().ConfigMaps(o.namespace).Patch(ctx, "ledger", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	site.SetFinalizers(slices.DeleteFunc(site.GetFinalizers(), func(f string) bool { return f == finalizer }))
	_, err = o.objects.Resource(sites).Namespace(site.GetNamespace()).Update(ctx, site, metav1.UpdateOptions{})
	return err
}
