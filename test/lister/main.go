// Command lister lists the Pods of its namespace with client-go's in-cluster configuration, as operators do.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	config.Host = "https://kubernetes.default.svc" // by name, so through cluster DNS too
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	namespace, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		log.Fatal(err)
	}
	pods, err := client.CoreV1().Pods(strings.TrimSpace(string(namespace))).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range pods.Items {
		fmt.Println(p.Name, p.Status.Phase)
	}
}
