"""Train torchvision's ResNet-18 on images in folders; planner needs the five marked lines.

By hand: python train.py --data data --epochs 12
Under planner it runs on any number of workers: planner joins them, the script knows of none.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

import planner.sdk as planner  # planner 1


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64, help="images a worker sees at once")
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate")
    parser.add_argument("--size", type=int, default=32, help="pixels that images are scaled to")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def pick_device() -> torch.device:
    """This worker's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device(
        "cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    )
    torch.cuda.set_device(device)
    return device


def make_loader(folder: Path, args: argparse.Namespace, *, train: bool) -> DataLoader:
    """Images of one split; the training one in random order and shifted a little."""
    steps = [transforms.Resize(args.size), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    if train:  # digits must not be mirrored; a few pixels of shift are fine
        steps.insert(1, transforms.RandomCrop(args.size, padding=2))
    dataset = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    return DataLoader(
        dataset,
        batch_size=args.batch_size if train else 256,
        shuffle=train,
        pin_memory=torch.cuda.is_available(),
    )


def make_model(classes: int, device: torch.device) -> nn.Module:
    """ResNet-18, untrained."""
    return models.resnet18(num_classes=classes).to(device)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """One step of training; the loss."""
    loss = nn.functional.cross_entropy(model(images), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader, device: torch.device) -> float:
    """Share of images told right."""
    model.eval()
    right = 0
    for images, target in loader:
        right += (model(images.to(device)).argmax(1) == target.to(device)).sum().item()
    model.train()
    return right / len(loader.dataset)


def main() -> None:
    """Train, then judge on the test images."""
    args = read_arguments()
    torch.manual_seed(args.seed)
    device = pick_device()
    loader = make_loader(args.data / "train", args, train=True)
    val_loader = make_loader(args.data / "val", args, train=False)
    model = make_model(len(loader.dataset.classes), device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = args.epochs * planner.steps_per_epoch(loader)  # planner 2
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)

    job = planner.attach(  # planner 3
        model=model, optimizer=optimizer, scheduler=scheduler, epochs=args.epochs
    )
    for epoch, batches in job.epochs(loader):  # planner 4
        for images, target in batches:
            loss = train_step(model, optimizer, images.to(device), target.to(device))
            scheduler.step()
            job.log(loss=loss)  # planner 5
        if job.leads:
            val_accuracy = accuracy(model, val_loader, device)
            job.log(val_accuracy=val_accuracy)
            print(
                f"epoch {epoch + 1}/{args.epochs} loss {loss.item():.3f} "
                f"val_accuracy {val_accuracy:.4f}",
                flush=True,
            )

    if job.leads:
        test_loader = make_loader(args.data / "test", args, train=False)
        test_accuracy = accuracy(model, test_loader, device)
        job.log(test_accuracy=test_accuracy)
        print(f"test_accuracy {test_accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
