"""The network that changes are measured on: digits, a small convolutional net or ResNet-18."""

SCRIPT = '''
import os, sys, time
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset

PLAIN = os.environ.get("PLAIN") == "1"
if not PLAIN:
    import planner.sdk as planner

torch.set_num_threads(1)
torch.manual_seed(0)
NET = os.environ.get("NET", "small")
SEED = int(os.environ.get("SEED", "0"))
EPOCHS = int(os.environ.get("EPOCHS", "1000"))
BATCH = int(os.environ.get("BATCH", "64"))
HELD_OUT = 297


class Digits(Dataset):
    """Real handwritten digits, three channels of eight pixels."""

    def __init__(self):
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(1))
        x = torch.tensor(digits.images, dtype=torch.float32).div(16)[order]
        y = torch.tensor(digits.target)[order]
        self.x, self.y = x.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()[HELD_OUT:], y[HELD_OUT:]
        self.test = x.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()[:HELD_OUT], y[:HELD_OUT]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return i, self.x[i], self.y[i]


def make_model():
    if NET == "resnet18":
        import torchvision

        return torchvision.models.resnet18(num_classes=10)
    layers, channels = [], 3
    for out in (16, 32, 64):
        layers += [nn.Conv2d(channels, out, 3, 1 if out == 16 else 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


torch.manual_seed(SEED)
data = Digits()
model = make_model()
workers = int(os.environ["WORLD_SIZE"])
sampler = None
if PLAIN and workers > 1:
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(model)
    sampler = torch.utils.data.DistributedSampler(data)
share = BATCH // workers if PLAIN else BATCH
loader = DataLoader(data, batch_size=share, shuffle=sampler is None, sampler=sampler)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
if PLAIN:
    epochs = ((epoch, loader) for epoch in range(EPOCHS))
else:
    steps = EPOCHS * planner.steps_per_epoch(loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    job = planner.attach(model=model, optimizer=optimizer, scheduler=scheduler, epochs=EPOCHS)
    epochs = job.epochs(loader)
log = open(os.environ["SEEN"], "a", buffering=1)
stepped = [0]
optimizer.register_step_post_hook(lambda *_: stepped.append(time.time()))
for epoch, batches in epochs:
    for i, images, target in batches:
        if not PLAIN and os.environ.get("LOG_IDS"):
            crew = job._gear.crew
            log.write(f"b {job.step} {crew.generation} {epoch} {' '.join(map(str, i.tolist()))}\\n")
        loss = nn.functional.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not PLAIN:
            scheduler.step()
            time.sleep(float(os.environ.get("PAUSE_S", "0")))
        if len(stepped) > 1:
            log.write(f"s {stepped.pop()}\\n")
if PLAIN or job.leads:
    model.eval()
    with torch.no_grad():
        right = (model(data.test[0]).argmax(1) == data.test[1]).float().mean().item()
    print(f"accuracy {right:.4f}", flush=True)
'''
